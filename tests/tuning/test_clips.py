"""Recordings become clips: cut at silences, captioned, cleaned."""

import numpy as np
import pytest
import torch

from impact_pl.audio import save_audio
from impact_pl.tuning.clips import FRAME_SECONDS, prepare_clips, sounding_spans, words_of
from tests.helpers.recordings import RATE, hit, write_hits


def levels(*parts: tuple[float, float]) -> np.ndarray:
    """(seconds, dB) -> frames."""
    return np.concatenate([np.full(round(seconds / FRAME_SECONDS), level) for seconds, level in parts])


def test_sounds_are_separated_by_long_silences_and_packed_over_short_ones():
    recording = levels((1, -90), (0.5, -20), (0.5, -90), (0.5, -20), (2, -90), (0.5, -20), (1, -90))
    assert sounding_spans(recording, 5.12) == [pytest.approx((0.95, 1.7)), pytest.approx((4.45, 0.7))]
    close = levels(*[(0.5, -20), (0.5, -90)] * 8)  # fits five times into five seconds
    spans = sounding_spans(close, 5.12)
    assert len(spans) == 2
    assert all(duration <= 5.12 for _, duration in spans)
    assert sounding_spans(levels((12, -20)), 5.12) == [pytest.approx((0, 12.15))]  # rain: in one piece
    assert sounding_spans(levels((1, -70)), 5.12) == []
    assert len(sounding_spans(levels((1, -20), (2, -59), (1, -20)), 5.12)) == 1  # a quiet middle is no silence


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Kick_Drum-03.wav", "kick drum"),
        ("doorSlam2.flac", "door slam"),
        ("bells/0001.wav", "bells"),
        ("église 4.ogg", "église"),
        ("7.wav", "sounds"),
    ],
)
def test_a_name_in_words(tmp_path, name, words):
    assert words_of(tmp_path / "sounds", name) == words


def test_a_tape_is_cut_and_stays_in_one_split(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        tape = [part for i in range(4) for part in (hit(10 * ord(name) + i), torch.zeros(2 * RATE))]
        save_audio(tmp_path / name / "gong.wav", torch.cat(tape), RATE)
    clips = prepare_clips(tmp_path, None, 5.12)
    assert len(clips.records) == 12
    assert {record.caption for record in clips.records} == {"gong"}
    assert clips.named == ["a/gong.wav", "b/gong.wav", "c/gong.wav"]
    for record in clips.records:
        assert 0.35 < record.duration < 0.65
        assert record.id.startswith(f"{record.source.removesuffix('.wav')} at ")
    splits = {(record.source, record.split) for record in clips.records}
    assert len(splits) == 3
    assert {split for _, split in splits} == {"train", "valid"}
    assert clips.silence > 0.7 * clips.seconds


def test_copies_are_found_at_any_level_but_takes_of_one_kind_stay(tmp_path):
    folder = write_hits(tmp_path / "hits", 8)
    save_audio(folder / "quieter.wav", 0.3 * hit(2), RATE)
    save_audio(folder / "later.flac", torch.cat([torch.zeros(RATE // 5), hit(5)]), RATE)
    clips = prepare_clips(folder, None, 5.12)
    assert len(clips.records) == 8
    reasons = {each.id: each.reason for each in clips.left_out}
    assert len(reasons) == 2
    assert all(reason.startswith("a copy of ") for reason in reasons.values())


def test_captions_come_from_the_list_where_it_has_them(tmp_path):
    folder = write_hits(tmp_path / "hits", 6)
    listed = tmp_path / "list.csv"
    listed.write_text("file,caption,licence,source\nsnare_hit_00.wav,a snare,CC0,tape\nsnare_hit_01.wav,,CC-BY,tape\n")
    clips = prepare_clips(folder, listed, 5.12, licence="mine")
    by_id = {record.id: record for record in clips.records}
    assert by_id["snare_hit_00"].caption == "a snare"
    assert (by_id["snare_hit_01"].caption, by_id["snare_hit_01"].licence) == ("snare hit", "CC-BY")
    assert (by_id["snare_hit_04"].caption, by_id["snare_hit_04"].licence) == ("snare hit", "mine")
    assert by_id["snare_hit_00"].split == by_id["snare_hit_01"].split  # one source
    assert clips.named == [f"snare_hit_0{i}.wav" for i in range(1, 6)]
