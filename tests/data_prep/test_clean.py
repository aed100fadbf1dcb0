"""What no model should learn from is found, with its reason; of two copies the held-out one stays."""

import csv
import json

import numpy as np
import pytest
import soundfile

from data_prep.corpus import clean
from impact_pl.data.manifest import Record, read_manifest, write_manifest

RATE = 16_000


def tone(hertz, seconds=1.0, level=0.5):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def noise(seed, seconds=1.0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


@pytest.fixture
def manifest(tmp_path):
    sounds = {
        "noise": (noise(0), "train"),
        "noise again": (0.98 * noise(0) + 1e-4 * noise(9), "valid"),  # a copy with other bytes
        "chirp": (tone(300) * np.linspace(0, 1, RATE, dtype=np.float32), "train"),
        "short": (noise(1, 0.1), "train"),
        "silent": (1e-4 * noise(2), "train"),
        "clipped": (np.clip(5 * tone(440), -1, 1), "train"),
    }
    records = []
    for name, (waveform, split) in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", waveform, RATE, subtype="FLOAT")
        records.append(Record(name, f"{name}.wav", split=split, caption=name))
    records.append(Record("gone", "gone.wav"))
    write_manifest(tmp_path / "all.jsonl", records)
    return tmp_path / "all.jsonl"


def test_every_reason_is_found_and_told(manifest, capsys):
    out = manifest.parent / "clean" / "manifest.jsonl"
    clean.main(["--manifest", str(manifest), "--out", str(out)])
    assert [record.id for record in read_manifest(out)] == ["noise again", "chirp"]
    lines = [json.loads(line) for line in out.with_name("rejected.jsonl").read_text().splitlines()]
    reasons = {line["id"]: line["reason"] for line in lines}
    assert reasons["short"].startswith("too short: 0.100 s")
    assert reasons["silent"].startswith("silent")
    assert reasons["clipped"].startswith("clipped: ")
    assert reasons["noise"].startswith("near-duplicate of noise again (valid)")
    assert reasons["gone"].startswith("unreadable: ")
    assert "no such audio file" in reasons["gone"]
    assert "near-duplicate: 1" in capsys.readouterr().out
    with open(out.with_name("measures.csv"), newline="") as file:
        peaks = {row["id"]: float(row["peak"]) for row in csv.DictReader(file)}
    assert peaks["clipped"] == 1.0
    assert peaks["chirp"] < 0.51


def test_damaged_clips_are_left_out_and_the_others_cleaned(tmp_path):
    soundfile.write(tmp_path / "good.flac", noise(0), RATE)
    whole = (tmp_path / "good.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])  # as a download that broke off
    not_finite = noise(1)
    not_finite[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", not_finite, RATE, subtype="FLOAT")
    not_finite[100] = np.inf
    soundfile.write(tmp_path / "inf.wav", not_finite, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "loud.wav", 5 * noise(2) / np.abs(noise(2)).max(), RATE, subtype="FLOAT")
    names = ("cut.flac", "nan.wav", "inf.wav", "loud.wav", "good.flac")
    write_manifest(tmp_path / "all.jsonl", [Record(name, name) for name in names])
    out = tmp_path / "clean" / "manifest.jsonl"
    clean.main(["--manifest", str(tmp_path / "all.jsonl"), "--out", str(out)])
    assert [record.id for record in read_manifest(out)] == ["good.flac"]
    lines = [json.loads(line) for line in out.with_name("rejected.jsonl").read_text().splitlines()]
    reasons = {line["id"]: line["reason"] for line in lines}
    assert reasons.pop("cut.flac").startswith("unreadable: ")
    assert all("holds NaN or infinite samples" in reasons.pop(name) for name in ("nan.wav", "inf.wav"))
    assert "5 times full scale" in reasons.pop("loud.wav")
    assert not reasons


def test_the_manifest_itself_is_never_overwritten(manifest):
    with pytest.raises(SystemExit) as error:
        clean.main(["--manifest", str(manifest), "--out", str(manifest)])
    assert error.value.code == 2


def records_of(tmp_path, splits, seconds):
    found = []
    for i, (split, lasts) in enumerate(zip(splits, seconds, strict=True)):
        soundfile.write(tmp_path / f"{i}.wav", noise(i, lasts), RATE)
        found.append(Record(str(i), str(tmp_path / f"{i}.wav"), split=split))
    return found


def test_near_duplicates_are_alike_and_equally_long(tmp_path):
    records = records_of(tmp_path, ["train", "train", "test", "train"], [1.0, 1.1, 1.0, 3.0])
    unit = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    copies = clean.near_duplicates(records, unit, 0.99)
    assert list(copies) == [0]  # the longer of two copies stays, and so does what lasts three times as long
    assert copies[0].startswith("near-duplicate of 1 (train): cosine 1.000")
    unit[2] = unit[0]
    assert set(clean.near_duplicates(records, unit, 0.99)) == {0, 1}  # now the held-out one is what stays


def test_a_clip_with_two_captions_is_no_copy_of_itself(tmp_path):
    (record,) = records_of(tmp_path, ["train"], [1.0])
    twice = [record, Record("again", record.path, caption="the same")]
    assert clean.near_duplicates(twice, np.ones((2, 1)), 0.99) == {}
