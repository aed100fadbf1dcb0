"""Other ways to say a caption: "a dog barks" -> "a dog is barking", "the sound of a dog barking", "a dog barking".

Only the grammar changes, never what is said. A caption that these few rules do not understand keeps its one form.
"""

from impact_pl.datasets.base import draw_of

_VERBS = """
accelerate applaud baa backfire bark beat beatbox beep bellow bite blare blast blat bleat blow boil boo boom boost
bottom bounce bray break breathe bubble burn burp burst buzz call canter catch caw chant charge chatter cheer chime
chirp chisel chitter chop clang clank clap clash clatter click climb clink close cluck collapse coo cough crack
crackle crash creak croak crow crumble crunch cry cut dig ding drain drip drive drone drop echo explode fall fire
flap flare flicker flow flush fly gallop gasp go gobble groan growl grunt gurgle gush hammer hiss hit honk hoot howl
hum idle jingle jump knock land lap laugh launch lift make meow moan moo move neigh oink open pass peal play pop
pound pour puff purr quack race rattle rev rewind ricochet ride ring ripple roar roll rumble run rush rustle saw say
scrape scratch scream screech shatter shoot shout shriek shut sigh sing sizzle skid slam slash slice slide slosh
slow slurp smack smash snap snarl sneeze snip snore snort snuffle sound speak spin splash splat splatter spray
sputter squawk squeak squeal squirt squish stab start step stick stop strike strum sweep swing swish swoosh take
talk tap throw thud thump tick toll trickle trot trumpet turn twitter wail walk wash whine whinny whip whir whistle
whoosh wind yell yelp yowl zap
"""
VERBS = frozenset(_VERBS.split())
DOUBLED = frozenset("bdglmnprtv")  # hum -> humming
ARTICLES = ("a", "an", "the")
ESC10 = {  # category -> what a person would say; no detail that only some of its clips have
    "dog": ["a dog barks", "a dog barking", "a dog is barking", "barking of a dog", "a barking dog"],
    "rooster": ["a rooster crows", "a rooster crowing", "a rooster is crowing", "crowing of a rooster"],
    "rain": ["rain falls", "falling rain", "rain is falling", "the sound of rain", "it is raining"],
    "sea_waves": [
        "sea waves",
        "waves of the sea",
        "the sound of sea waves",
        "ocean waves",
        "waves roll in from the sea",
    ],
    "crackling_fire": ["a fire crackles", "a crackling fire", "a fire is crackling", "crackling of a fire"],
    "crying_baby": ["a baby cries", "a crying baby", "a baby is crying", "crying of a baby", "a baby crying"],
    "sneezing": ["a person sneezes", "someone sneezes", "a sneeze", "a person sneezing", "someone is sneezing"],
    "clock_tick": ["a clock ticks", "a clock ticking", "a ticking clock", "ticking of a clock", "a clock is ticking"],
    "helicopter": ["a helicopter flies", "a helicopter", "a flying helicopter", "the sound of a helicopter"],
    "chainsaw": ["a chainsaw runs", "a chainsaw", "a running chainsaw", "the sound of a chainsaw"],
}


def phrasings(caption: str) -> list[str]:
    """The caption itself first, then what it can be turned into.

    A caption with exactly one known verb in the present tense, third person, becomes continuous, or a noun phrase; one
    without a verb ("a snare drum hit") can be called a sound.
    """
    words = caption.split()
    places = [i for i in range(1, len(words)) if _is_verb(words, i)]
    if not places:
        passive = {"is", "are"} & set(words)
        return [caption] if passive or words[0] not in ("a", "an") else [caption, f"the sound of {caption}"]
    if len(places) > 1 or {"and", "while", "as"} & set(words):
        return [caption]
    place = places[0]
    be = "is" if _singular(words[place]) else "are"
    before, after = words[:place], words[place + 1 :]
    gerund = " ".join([*before, _gerund(_base(words[place])), *after])
    return [caption, " ".join([*before, be, gerund[len(" ".join(before)) + 1 :]]), gerund, f"the sound of {gerund}"]


def choose(caption: str, key: str) -> str:
    """One of the caption's phrasings, the same for the same ``key`` (a clip's id)."""
    ways = phrasings(caption)
    return ways[int(draw_of(f"phrasing of {key}") * len(ways))]


def is_clause(caption: str) -> bool:
    """Whether a verb in the present tense is in it, so that "while" can stand before it."""
    words = caption.split()
    return bool({"is", "are"} & set(words)) or any(_is_verb(words, i) for i in range(1, len(words)))


def _is_verb(words: list[str], i: int) -> bool:
    word = words[i]
    if _singular(word):
        return _base(word) in VERBS and words[i - 1] not in ("of", "with", "and", "on", *ARTICLES)
    plural = words[0] not in ARTICLES and (words[i - 1].endswith("s") or words[i - 1] in ("people", "children"))
    return word in VERBS and plural and i <= 2


def _singular(word: str) -> bool:
    return word.endswith("s") and not word.endswith("ss")


def _base(verb: str) -> str:
    """``crashes`` -> crash, ``cries`` -> cry, ``barks`` -> bark."""
    if not _singular(verb):
        return verb
    if verb.endswith("ies"):
        return verb[:-3] + "y"
    return verb[:-2] if verb.endswith(("sses", "shes", "ches", "xes", "zzes", "oes")) else verb[:-1]


def _gerund(base: str) -> str:
    if base.endswith("e") and not base.endswith("ee"):
        return base[:-1] + "ing"
    short = len(base) >= 3 and base[-1] in DOUBLED and base[-2] in "aeiou" and base[-3] not in "aeiou"
    monosyllable = sum(letter in "aeiou" for letter in base) == 1
    return base + (base[-1] if short and monosyllable else "") + "ing"
