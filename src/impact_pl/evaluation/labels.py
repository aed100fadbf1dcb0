"""Class accuracy: whether YAMNet detects a sound's labelled class rather than one of the other classes.

The classification is zero-shot: a label stands for one or more of YAMNet's 521 AudioSet classes, and its score is that
of its most likely class. A sound is correct if its own label scores highest of all ten, so chance level is 0.1. Real
recordings do not reach 1: of ESC-10's 320 clips in folds 1 to 4, 0.928 are correct.

Dimension key: N sounds, L labels, K classes.
"""

from collections.abc import Sequence

import numpy as np

from impact_pl.data.lists import Sounds
from impact_pl.errors import UserError
from impact_pl.evaluation.formulas import Features
from impact_pl.evaluation.intervals import Interval, bootstrap_interval

ESC10 = {  # labels as in ESC-50's meta/esc50.csv -> the corresponding AudioSet classes
    "dog": ("Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)"),
    "rooster": ("Chicken, rooster", "Crowing, cock-a-doodle-doo"),
    "rain": ("Rain", "Raindrop", "Rain on surface"),
    "sea_waves": ("Ocean", "Waves, surf"),
    "crackling_fire": ("Fire", "Crackle"),
    "crying_baby": ("Baby cry, infant cry", "Crying, sobbing"),
    "sneezing": ("Sneeze",),
    "clock_tick": ("Clock", "Tick", "Tick-tock"),
    "helicopter": ("Helicopter",),
    "chainsaw": ("Chainsaw",),
}


def labels_of(sounds: Sounds) -> dict[str, str]:
    """Find the label of each sound that has exactly one of ESC10's. Other sounds are not scored."""
    known = {name: [label for label in record.labels if label in ESC10] for name, record in sounds.items()}
    return {name: labels[0] for name, labels in known.items() if len(labels) == 1}


def heard_labels(scores: Features, class_names: Sequence[str], table: dict[str, tuple[str, ...]] = ESC10) -> list[str]:
    """Find the label of ``table`` that scores highest in each sound.

    Args:
        scores: (N, K) class probabilities of each sound.
        class_names: (K) their names.
        table: Labels and the names of their classes.

    Raises:
        UserError: The network lacks one of the classes.
    """
    unknown = {name for names in table.values() for name in names} - set(class_names)
    if unknown:
        raise UserError(f"the network has no class {min(unknown)!r}: labels cannot be told apart by it")
    columns = [[class_names.index(name) for name in names] for names in table.values()]
    by_label = np.stack([np.asarray(scores)[:, each].max(axis=1) for each in columns], axis=1)  # (N, L)
    return [list(table)[index] for index in by_label.argmax(axis=1)]


def accuracy(
    labels: Sequence[str | None], scores: Features, class_names: Sequence[str], generator: np.random.Generator
) -> dict[str, float | dict[str, float] | Interval]:
    """Compute a row's metrics: ``accuracy`` over labelled sounds, its 95 % interval, and the accuracy per label.

    Args:
        labels: Label of each sound, None for sounds that are not scored. At least one has a label.
        scores: (N, K).
        class_names: (K).
        generator: Generator of the bootstrap.
    """
    pairs = zip(labels, heard_labels(scores, class_names), strict=True)
    counted = [(label, float(label == heard)) for label, heard in pairs if label is not None]
    right = np.array([each for _, each in counted])
    by_label = {name: [each for label, each in counted if label == name] for name in ESC10}
    return {
        "accuracy": float(right.mean()),
        "accuracy_interval": bootstrap_interval(right, generator),
        "accuracy_by_label": {name: float(np.mean(each)) for name, each in by_label.items() if each},
    }
