"""Does a model replay its training set? How near its sounds are to the nearest training clip, as YAMNet hears them.

A cosine alone says nothing: two dogs are near each other whoever recorded them. So the same is said of held-out real
sounds (near by kind alone) and of the codec's reconstructions of training clips (what replaying would look like).

Dimension key: N sounds, M training clips, D dimensions.
"""

from collections.abc import Sequence

import numpy as np

PERCENTILES = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
CHUNK = 1024  # sounds whose cosines with all clips are held at once


def nearest(embeddings, training) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (N, D) and those of the training clips (M, D) -> the largest cosine (N,), and whose it is (N,)."""
    units = [np.asarray(each, dtype=np.float64) for each in (embeddings, training)]
    sounds, clips = (each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12) for each in units)
    largest, whose = [], []
    for start in range(0, len(sounds), CHUNK):
        cosines = sounds[start : start + CHUNK] @ clips.T  # (N', M)
        whose.append(cosines.argmax(axis=1))
        largest.append(cosines.max(axis=1))
    return np.concatenate(largest), np.concatenate(whose)


def replay_rows(sets: dict[str, np.ndarray], training: np.ndarray, training_ids: Sequence[str], replayed: str) -> dict:
    """The distribution of the nearest training clip's similarity, of each set of sounds.

    Args:
        sets: name -> embeddings (N_i, D).
        training: embeddings of all training clips (M, D).
        training_ids: of the clips (M).
        replayed: name of the set that shows what replaying looks like.

    Returns:
        name -> ``percentiles`` (PERCENTILES), ``as_replayed`` (share of sounds that are nearer to a training clip than
        the lowest tenth of the set ``replayed`` is), and of each sound ``similarity`` and ``nearest`` (a clip's id).
    """
    found = {name: nearest(embeddings, training) for name, embeddings in sets.items()}
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
