"""Tabulate how close the sounds of a model are to the nearest training clip (impact_pl.evaluation.copies)."""

from collections.abc import Sequence

import numpy as np

from impact_pl.evaluation.copies import Found

PERCENTILES = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


def replay_rows(found: dict[str, Found], training_ids: Sequence[str], replayed: str) -> dict[str, dict]:
    """Describe the distribution of the similarity to the nearest training clip, for each set of sounds.

    Args:
        found: Name of a set -> the nearest training clips of its sounds.
        training_ids: Ids of the clips (M).
        replayed: Name of the set that shows what replaying looks like.

    Returns:
        Name -> ``percentiles`` (PERCENTILES), ``as_replayed`` (fraction of sounds that are closer to a training clip
        than the lowest tenth of the set ``replayed``), and per sound ``similarity`` and ``nearest`` (a clip's id).
    """
    threshold = np.percentile(found[replayed][0], 10)
    return {
        name: {
            "percentiles": [float(each) for each in np.percentile(similarity, PERCENTILES)],
            "as_replayed": float((similarity > threshold).mean()),
            "similarity": [round(float(each), 4) for each in similarity],
            "nearest": [training_ids[index] for index in whose],
        }
        for name, (similarity, whose) in found.items()
    }
