"""Phrasings of the ten classes of ESC-10 that no model of ours is trained on.

``VALID`` serves for choices, such as decoding settings, and ``TEST`` for the figures of a model card. Phrasings that
are trained on are in ``data_prep/corpus/esc10_phrasings.py``.
"""

VALID = {
    "dog": ["a dog gives a bark", "the barking of the dog", "a dog going woof"],
    "rooster": ["the crowing of the rooster", "a rooster lets out its crow", "a cock is crowing"],
    "rain": ["it is raining down", "drops of rain falling", "the noise of falling rain"],
    "sea_waves": ["the waves of an ocean", "waves rolling in", "the surf of the ocean"],
    "crackling_fire": ["crackles from a fire", "fire is crackling", "the burning of a fire"],
    "crying_baby": ["the crying of the baby", "a baby gives a cry", "an infant is crying"],
    "sneezing": ["the sneezing of a person", "someone lets out a sneeze", "a sneeze by somebody"],
    "clock_tick": ["the clock going tick-tock", "tick, tock, a clock", "clock is ticking"],
    "helicopter": ["the helicopter in the air", "helicopter flies", "a chopper is flying"],
    "chainsaw": ["a chainsaw in use", "the chainsaw is running", "chain saw noise"],
}
TEST = {
    "dog": ["a hound is barking", "a puppy barks", "bow-wow, says the dog", "hear the dog bark"],
    "rooster": ["a cockerel crowing", "the rooster calls", "hear the rooster crow", "a male chicken crows"],
    "rain": ["rainwater pours from the sky", "hear the rain", "a rain shower", "raindrops hitting the ground"],
    "sea_waves": [
        "waves break on the shore",
        "the surf rolls onto the beach",
        "sea water washing ashore",
        "hear the waves of the sea",
    ],
    "crackling_fire": ["burning wood crackles", "a campfire", "logs crackle in the flames", "hear the fire crackle"],
    "crying_baby": ["a newborn wails", "the wailing of an infant", "hear the baby cry", "a little child cries"],
    "sneezing": ["achoo, goes someone", "a man or a woman sneezes", "hear someone sneeze", "people sneezing"],
    "clock_tick": ["a watch ticks", "the seconds tick by on a clock", "hear the clock tick", "a timepiece ticking"],
    "helicopter": [
        "a helicopter flies by",
        "an aircraft with spinning rotor blades",
        "hear the helicopter",
        "a helicopter hovers overhead",
    ],
    "chainsaw": ["a chainsaw is running", "a chainsaw cuts wood", "hear the chainsaw", "a power saw buzzes"],
}
