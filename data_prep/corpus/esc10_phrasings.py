"""Ways to say the ten classes of ESC-10, for training.

No phrasing names a detail that only some clips of its class have (how many, how loud, where, what weather). Phrasings
that are judged with, and must not be added here, are in ``lab/cards/phrasings.py``.
"""


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


TRAIN = {
    "dog": _lines("""
        a dog barks
        a dog barking
        a dog is barking
        barking of a dog
        a barking dog
        the dog barks
        the dog is barking
        dog
        a dog
        dog bark
        dog barking
        barking dog
        the bark of a dog
        the sound of a dog
        the sound of a dog barking
        the sound of a barking dog
        sound of a dog barking
        a dog's bark
        a recording of a dog barking
        a recording of a dog
        a dog can be heard barking
        barking sounds of a dog
        dog sounds
        there is a dog barking
        a dog lets out a bark
        the noise of a dog barking
        a dog that barks
        bark
        barking
        woof
    """),
    "rooster": _lines("""
        a rooster crows
        a rooster crowing
        a rooster is crowing
        crowing of a rooster
        a crowing rooster
        the rooster crows
        the rooster is crowing
        rooster
        a rooster
        rooster crow
        rooster crowing
        crowing rooster
        the crow of a rooster
        the sound of a rooster
        the sound of a rooster crowing
        sound of a rooster crowing
        a rooster's crow
        a recording of a rooster crowing
        a rooster can be heard crowing
        there is a rooster crowing
        a cock crows
        a cock crowing
        the cock is crowing
        a cockerel crows
        cock-a-doodle-doo
        the noise of a rooster crowing
        a rooster that crows
        crowing
    """),
    "rain": _lines("""
        rain falls
        falling rain
        rain is falling
        the sound of rain
        it is raining
        rain
        raining
        rain falling
        rain sounds
        rain sound
        rainfall
        the rain falls
        the rain is falling
        the sound of rainfall
        the sound of falling rain
        the sound of rain falling
        sound of rain
        a recording of rain
        a recording of rain falling
        rain can be heard
        the noise of rain
        the patter of rain
        raindrops fall
        falling raindrops
        raindrops are falling
        it rains
        rain drops
        rain comes down
        rain is coming down
    """),
    "sea_waves": _lines("""
        sea waves
        waves of the sea
        the sound of sea waves
        ocean waves
        waves roll in from the sea
        waves
        the sea
        the ocean
        waves of the ocean
        the sound of the sea
        the sound of the ocean
        the sound of ocean waves
        the sound of waves
        sound of the sea
        sound of waves
        waves in the sea
        sea sounds
        ocean sounds
        a wave
        ocean surf
        surf
        the surf of the sea
        waves are rolling in
        rolling waves
        waves roll in
        the sea rolls in
        waves crash
        waves crashing
        crashing waves
        a recording of sea waves
        a recording of the ocean
        the noise of the sea
        waves can be heard
        waves wash in
    """),
    "crackling_fire": _lines("""
        a fire crackles
        a crackling fire
        a fire is crackling
        crackling of a fire
        a fire crackling
        the fire crackles
        the fire is crackling
        fire
        a fire
        fire crackling
        fire crackles
        crackling fire
        the crackle of a fire
        the crackling of fire
        the sound of fire
        the sound of a fire
        the sound of a fire crackling
        the sound of a crackling fire
        sound of a crackling fire
        a fire burns
        a fire is burning
        a burning fire
        the sound of a burning fire
        fire burning
        flames crackle
        crackling flames
        the flames are crackling
        a recording of a crackling fire
        fire sounds
        the noise of a fire
        a fire can be heard crackling
    """),
    "crying_baby": _lines("""
        a baby cries
        a crying baby
        a baby is crying
        crying of a baby
        a baby crying
        the baby cries
        the baby is crying
        baby
        a baby
        baby cry
        baby crying
        crying baby
        the cry of a baby
        the sound of a baby
        the sound of a baby crying
        the sound of a crying baby
        sound of a baby crying
        a baby's cry
        a recording of a baby crying
        a baby can be heard crying
        there is a baby crying
        an infant cries
        an infant crying
        a crying infant
        the infant is crying
        infant cry
        the noise of a baby crying
        a baby that cries
        baby sounds
    """),
    "sneezing": _lines("""
        a person sneezes
        someone sneezes
        a sneeze
        a person sneezing
        someone is sneezing
        sneeze
        sneezing
        a person is sneezing
        someone sneezing
        the sneeze of a person
        the sound of a sneeze
        the sound of sneezing
        the sound of someone sneezing
        the sound of a person sneezing
        sound of a sneeze
        a human sneeze
        a human sneezes
        a human is sneezing
        somebody sneezes
        somebody is sneezing
        a recording of a sneeze
        a recording of someone sneezing
        a sneeze can be heard
        there is a sneeze
        the noise of a sneeze
        a sneezing person
        sneezes
        achoo
        a person lets out a sneeze
    """),
    "clock_tick": _lines("""
        a clock ticks
        a clock ticking
        a ticking clock
        ticking of a clock
        a clock is ticking
        the clock ticks
        the clock is ticking
        clock
        a clock
        clock tick
        clock ticking
        ticking clock
        the tick of a clock
        the ticking of a clock
        the sound of a clock
        the sound of a clock ticking
        the sound of a ticking clock
        sound of a clock ticking
        a clock's ticking
        a recording of a clock ticking
        a clock can be heard ticking
        there is a clock ticking
        tick-tock
        tick tock of a clock
        clock sounds
        the noise of a clock
        a clock that ticks
        ticking
        the ticks of a clock
    """),
    "helicopter": _lines("""
        a helicopter flies
        a helicopter
        a flying helicopter
        the sound of a helicopter
        helicopter
        the helicopter flies
        a helicopter is flying
        the helicopter is flying
        a helicopter flying
        helicopter flying
        helicopter sound
        helicopter sounds
        helicopter noise
        sound of a helicopter
        the sound of a helicopter flying
        the sound of a flying helicopter
        the noise of a helicopter
        a recording of a helicopter
        a helicopter can be heard
        there is a helicopter
        a helicopter's rotor
        the rotor of a helicopter
        helicopter rotor
        rotor blades of a helicopter
        the blades of a helicopter turn
        the whir of a helicopter
        a chopper
        a chopper flies
        a helicopter in flight
    """),
    "chainsaw": _lines("""
        a chainsaw runs
        a chainsaw
        a running chainsaw
        the sound of a chainsaw
        chainsaw
        the chainsaw runs
        chainsaw running
        a chainsaw running
        chainsaw sound
        chainsaw sounds
        chainsaw noise
        sound of a chainsaw
        the sound of a running chainsaw
        the sound of a chainsaw running
        the noise of a chainsaw
        a recording of a chainsaw
        a chainsaw can be heard
        there is a chainsaw
        a chain saw
        a chain saw runs
        the sound of a chain saw
        the motor of a chainsaw
        the engine of a chainsaw
        a chainsaw buzzes
        the buzz of a chainsaw
        a chainsaw is on
        a chainsaw at work
        someone uses a chainsaw
        a motor saw
    """),
}
