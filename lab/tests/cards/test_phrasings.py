"""Phrasings that are judged with are in no training set."""

import json

from data_prep.corpus.captions import phrasings
from data_prep.corpus.corpus import CORPORA
from data_prep.corpus.esc10_phrasings import TRAIN
from lab.cards.class_bars import CAPTIONS
from lab.cards.phrasings import TEST, VALID

HELD_OUT = [way for ways in (*VALID.values(), *TEST.values()) for way in ways]


def test_each_class_has_held_out_phrasings_and_they_are_distinct():
    assert VALID.keys() == TEST.keys() == CAPTIONS.keys()
    assert len(set(HELD_OUT)) == len(HELD_OUT)
    assert all(caption in TRAIN[label] + TEST[label] for label, caption in CAPTIONS.items())


def test_no_record_can_have_one():
    trained = {way for ways in TRAIN.values() for way in ways}
    for corpus in CORPORA:
        for clip in json.loads(corpus.read_text(encoding="utf-8"))["clips"]:
            trained.update(phrasings(clip["caption"]) if clip["caption"] else [])
    assert not trained & set(HELD_OUT)
