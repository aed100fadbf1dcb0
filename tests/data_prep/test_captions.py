"""Captions keep their meaning when they are put in another way."""

import json

import pytest

from data_prep.corpus.captions import ESC10, choose, is_clause, phrasings
from data_prep.corpus.corpus import CORPORA


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
        ("a cymbal is struck", "a cymbal is struck"),
        ("a dog barks and growls", "a dog barks and growls"),
        ("the rumble of an earthquake", "the rumble of an earthquake"),
        ("footsteps on stairs", "footsteps on stairs"),
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


def test_a_choice_follows_from_the_key_and_all_are_chosen():
    chosen = {choose("a dog barks", f"clip {i}") for i in range(60)}
    assert chosen == set(phrasings("a dog barks"))
    assert choose("a dog barks", "clip 1") == choose("a dog barks", "clip 1")


def test_a_clause_has_a_verb():
    assert all(is_clause(caption) for caption in ("a dog barks", "birds sing in a forest", "a gong is struck"))
    assert not any(is_clause(caption) for caption in ("a gong", "footsteps on stairs", "a dog barking"))


def test_the_ten_classes_have_several_distinct_captions():
    assert len(ESC10) == 10
    assert all(len(set(ways)) == len(ways) >= 3 for ways in ESC10.values())


def test_listed_captions_are_plain_words():
    for corpus in CORPORA:
        for clip in json.loads(corpus.read_text(encoding="utf-8"))["clips"]:
            caption = clip["caption"]
            if caption is not None:
                assert caption == " ".join(caption.split())
                assert not set(caption) & set("_/{}"), caption
