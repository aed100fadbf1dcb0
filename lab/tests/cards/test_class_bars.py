"""The table of the ten classes, on sounds whose figures are known."""

import numpy as np
import pytest

from impact_pl.evaluation.estimates import SetFeatures
from impact_pl.evaluation.labels import ESC10
from lab.cards.class_bars import CAPTIONS, Labelled, balanced_sets, class_rows

CLASS_NAMES = [name for names in ESC10.values() for name in names]


def row(per_class: int, shift: float = 0.0, wrong: int = 0, seed: int = 0) -> Labelled:
    """``per_class`` sounds of each class, in turn; the first ``wrong`` of all are heard as the class after theirs."""
    labels = list(CAPTIONS) * per_class
    random = np.random.default_rng(seed)
    embeddings = [shift + random.standard_normal((1, 3)) for _ in labels]
    scores = np.zeros((len(labels), len(CLASS_NAMES)))
    for index, label in enumerate(labels):
        heard = list(ESC10)[(list(ESC10).index(label) + (index < wrong)) % 10]
        scores[index, CLASS_NAMES.index(ESC10[heard][0])] = 0.9
    return Labelled(labels, SetFeatures(embeddings, scores=scores))


def test_sets_are_disjoint_balanced_and_the_same_for_the_same_labels():
    labels = list(CAPTIONS) * 5 + ["dog"] * 3
    sets = balanced_sets(labels, dict.fromkeys(CAPTIONS, 2), seed=1)
    assert len(sets) == 2
    assert len(set(np.concatenate(sets))) == 40
    for each in sets:
        assert sorted(labels[index] for index in each) == sorted(list(CAPTIONS) * 2)
    again = balanced_sets(labels, dict.fromkeys(CAPTIONS, 2), seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(sets, again, strict=True))


def test_every_row_is_compared_at_the_reference_s_number_of_sounds():
    reference = row(4)
    rows = {"real": reference, "codec": row(4), "generated": row(9, shift=2.0, wrong=18, seed=1)}
    table = class_rows(reference, rows, CLASS_NAMES)
    assert [table[name]["set_size"] for name in rows] == [40, 40, 40]
    assert [table[name]["num_sets"] for name in rows] == [0, 1, 2]
    assert table["real"]["fd_yamnet"] is None
    assert table["codec"]["fd_yamnet"] == pytest.approx(0, abs=1e-6)  # the same sounds, drawn as the same set
    assert table["generated"]["fd_yamnet"] == pytest.approx(
        3 * 2.0**2, rel=0.25
    )  # the squared shift, in three dimensions
    assert table["generated"]["fd_yamnet_std"] > 0
    assert table["codec"]["fd_yamnet_std"] is None


def test_accuracy_counts_all_sounds_and_shuffled_captions_get_what_is_left():
    table = class_rows(row(4), {"generated": row(9, wrong=18)}, CLASS_NAMES)["generated"]
    assert table["accuracy"] == pytest.approx(0.8)
    assert table["shuffled"] == pytest.approx(0.2 / 9)
    assert table["accuracy_by_label"]["dog"] == pytest.approx(7 / 9)
    assert table["num_sounds"] == 90


def test_a_class_without_sounds_is_named():
    lacking = Labelled(*(["rain", "dog"], row(1).clips))
    with pytest.raises(ValueError, match="no sound with the label 'rooster'"):
        class_rows(row(4), {"generated": lacking}, CLASS_NAMES)
