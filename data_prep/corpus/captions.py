"""Other ways to say a caption: "a dog barks" -> "a dog is barking", "dog barking", "the sound of a dog barking".

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


def phrasings(caption: str) -> list[str]:
    """Return the caption itself, then what it can be turned into.

    A caption with exactly one known verb in the present tense, third person, becomes continuous, or a noun phrase; so
    does a passive. A caption without a verb ("a snare drum hit") can be called a sound.
    """
    words = caption.split()
    places = [i for i in range(1, len(words)) if _is_verb(words, i)]
    auxiliaries = [i for i, word in enumerate(words) if word in ("is", "are")]
    if len(places) + len(auxiliaries) > 1 or {"and", "while", "as"} & set(words):
        return [caption]
    if auxiliaries:
        return [caption, *_named(" ".join("being" if i in auxiliaries else word for i, word in enumerate(words)))]
    if not places:
        return [caption] if words[0] == "the" else [*dict.fromkeys([caption, *_named(caption)])]
    place = places[0]
    be = "is" if _singular(words[place]) else "are"
    gerund = [*words[:place], _gerund(_base(words[place])), *words[place + 1 :]]
    continuous = [*gerund[:place], be, *gerund[place:]]
    return [caption, " ".join(continuous), *_named(" ".join(gerund))]


def _named(phrase: str) -> list[str]:
    """Ways to name a sound after a noun phrase: without its article, and as what it is."""
    first, _, rest = phrase.partition(" ")
    bare = rest if first in ARTICLES and rest else phrase
    ways = (bare, phrase, f"{phrase} can be heard", f"a recording of {phrase}", f"sound of {phrase}")
    return [*dict.fromkeys(ways), f"the sound of {phrase}"]


def rotated(ways: list[str], key: str) -> list[str]:
    """Begin a list at a place that follows from ``key``, such as a clip's id."""
    first = int(draw_of(f"phrasing of {key}") * len(ways))
    return ways[first:] + ways[:first]


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
