"""Captions keep their meaning when they are put in another way."""

import json

import pytest

from data_prep.corpus.captions import is_clause, phrasings, rotated
from data_prep.corpus.corpus import CORPORA
from data_prep.corpus.esc10_phrasings import TRAIN
from impact_pl.evaluation.labels import ESC10


@pytest.mark.parametrize(
    ("caption", "last"),
    [
        ("a dog barks", "the sound of a dog barking"),
        ("birds sing in a forest", "the sound of birds singing in a forest"),
        ("people applaud", "the sound of people applauding"),
        ("rain falls", "the sound of rain falling"),
        ("a machine hums", "the sound of a machine humming"),
        ("a car horn honks", "the sound of a car horn honking"),
        ("a baby cries", "the sound of a baby crying"),
        ("a person sneezes", "the sound of a person sneezing"),
        ("a snare drum hit", "the sound of a snare drum hit"),
        ("a cymbal is struck", "the sound of a cymbal being struck"),
        ("a dog barks and growls", "a dog barks and growls"),
        ("the rumble of an earthquake", "the rumble of an earthquake"),
        ("footsteps on stairs", "the sound of footsteps on stairs"),
    ],
)
def test_only_the_grammar_changes(caption, last):
    ways = phrasings(caption)
    assert ways[0] == caption
    assert ways[-1] == last
    assert len(set(ways)) == len(ways)


def test_the_continuous_form_agrees_in_number():
    assert "a dog is barking" in phrasings("a dog barks")
    assert "birds are singing" in phrasings("birds sing")


def test_the_order_follows_from_the_key_and_every_phrasing_comes_first_somewhere():
    ways = phrasings("a dog barks")
    assert {rotated(ways, f"clip {i}")[0] for i in range(99)} == set(ways)
    assert rotated(ways, "clip 1") == rotated(ways, "clip 1")
    assert sorted(rotated(ways, "clip 1")) == sorted(ways)


def test_a_clause_has_a_verb():
    assert all(is_clause(caption) for caption in ("a dog barks", "birds sing in a forest", "a gong is struck"))
    assert not any(is_clause(caption) for caption in ("a gong", "footsteps on stairs", "a dog barking"))


def test_the_ten_classes_have_many_distinct_phrasings():
    assert set(TRAIN) == set(ESC10)
    assert all(20 <= len(set(ways)) == len(ways) <= 50 for ways in TRAIN.values())


def test_listed_captions_are_plain_words():
    for corpus in CORPORA:
        for clip in json.loads(corpus.read_text(encoding="utf-8"))["clips"]:
            caption = clip["caption"]
            if caption is not None:
                assert caption == " ".join(caption.split())
                assert not set(caption) & set("_/{}"), caption
