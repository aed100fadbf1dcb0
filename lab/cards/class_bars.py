"""Score ten classes: detection of the class in generated sounds, and distance to real ones, at equal N.

A Frechet distance depends on the number of sounds. Every row is therefore cut into disjoint sets, each with as many
sounds per class as the held-out real sounds that serve as reference. Its distance is the mean over these sets.

Dimension key: M sounds of a row, K classes of YAMNet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from impact_pl.errors import UserError
from impact_pl.evaluation.estimates import SetFeatures, frechet
from impact_pl.evaluation.labels import ESC10, accuracy, heard_labels

CAPTIONS = {  # one per class, as a person would write it
    "dog": "a dog barks",
    "rooster": "a rooster crows",
    "rain": "rain falls",
    "sea_waves": "waves break on the shore",
    "crackling_fire": "a fire crackles",
    "crying_baby": "a baby cries",
    "sneezing": "a person sneezes",
    "clock_tick": "a clock ticks",
    "helicopter": "a helicopter flies by",
    "chainsaw": "a chainsaw is running",
}
assert CAPTIONS.keys() == ESC10.keys()


@dataclass
class Labelled:
    """The sounds of a row."""

    labels: list[str]  # (M), of ESC10
    clips: SetFeatures


def class_rows(
    reference: Labelled, rows: dict[str, Labelled], class_names: Sequence[str], seed: int = 0
) -> dict[str, dict]:
    """Compute each row's ``accuracy`` over all of its sounds, and ``fd_yamnet`` as the mean over its sets.

    Also computes ``num_sounds``, ``set_size``, ``num_sets``, ``fd_yamnet_std`` over the sets, ``shuffled`` (accuracy
    with the other classes' labels, i.e. chance level) and the figures of ``labels.accuracy``. A distance is None for
    the reference's own row, and a deviation for a single set.

    Raises:
        UserError: A row has no sound of some class.
    """
    counts = {label: min(row.labels.count(label) for row in (reference, *rows.values())) for label in CAPTIONS}
    lacking = [label for label, count in counts.items() if count == 0]
    if lacking:
        raise UserError(f"no sound with the label {lacking[0]!r} in one of the rows; the table needs all ten classes")
    compared = reference.clips.take(balanced_sets(reference.labels, counts, seed)[0])
    result = {}
    for name, row in rows.items():
        sets = [] if row is reference else balanced_sets(row.labels, counts, seed)
        distances = [frechet(compared, row.clips.take(kept)) for kept in sets]
        result[name] = {
            "num_sounds": len(row.labels),
            "set_size": sum(counts.values()),
            "num_sets": len(distances),
            "fd_yamnet": float(np.mean(distances)) if distances else None,
            "fd_yamnet_std": float(np.std(distances, ddof=1)) if len(distances) > 1 else None,
            "shuffled": shuffled_accuracy(row, class_names),
        } | accuracy(row.labels, row.clips.scores, class_names, np.random.default_rng(seed))
    return result


def balanced_sets(labels: Sequence[str], counts: dict[str, int], seed: int) -> list[np.ndarray]:
    """Split indices into disjoint sets with ``counts`` sounds per label; the rarest label limits the number of sets.

    Rows with the same labels in the same order get the same sets.
    """
    generator = np.random.default_rng(seed)
    of_label = {label: generator.permutation(np.flatnonzero(np.array(labels) == label)) for label in counts}
    num_sets = min(len(of_label[label]) // count for label, count in counts.items())
    return [
        np.sort(np.concatenate([of_label[label][index * n : (index + 1) * n] for label, n in counts.items()]))
        for index in range(num_sets)
    ]


def shuffled_accuracy(row: Labelled, class_names: Sequence[str]) -> float:
    """Compute the accuracy if each sound's caption belonged to another class, averaged over all nine."""
    heard = heard_labels(row.clips.scores, class_names)
    wrong = [label != said for label, said in zip(row.labels, heard, strict=True)]
    return float(np.mean(wrong)) / (len(CAPTIONS) - 1)
