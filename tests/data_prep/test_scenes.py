"""Scenes are composed of clips of one split, the same ones for a seed, and say what they are made of."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from data_prep.corpus import scenes
from impact_pl.audio import load_audio
from impact_pl.data.manifest import Record, read_manifest, write_manifest

RATE = 16_000
SOUNDS = {
    "train": ("a dog barks", "rain falls", "a bell rings", "a cat meows"),
    "valid": ("a cow moos", "wind blows", "a gong"),
}


@pytest.fixture
def manifest(tmp_path):
    records = []
    generator = np.random.default_rng(0)
    for split, captions in SOUNDS.items():
        for i, caption in enumerate(captions):
            path = tmp_path / f"{split}-{i}.wav"
            soundfile.write(path, generator.normal(0, 0.1, RATE * (1 + 3 * i)), RATE)
            records.append(
                Record(f"{split}/{i}", path.name, caption=caption, split=split, source=f"{split}{i}", licence="CC0")
            )
    write_manifest(tmp_path / "manifest.jsonl", records)
    return tmp_path / "manifest.jsonl"


def composed(manifest, name="composed.jsonl", seed=0):
    out = manifest.parent / name
    scenes.main(["--manifest", str(manifest), "--out", str(out), "--count", "20", "--seed", str(seed)])
    return read_manifest(out)


def test_scenes_are_made_of_one_split_and_say_so(manifest):
    records = composed(manifest)
    assert [record.split for record in records] == ["train"] * 20 + ["valid"] * 2
    assert {record.duration for record in records} == {5.0, 10.0}
    assert len({record.caption.replace(" then", "").count(" ") for record in records}) > 1
    for record in records:
        assert record.source.startswith("composed: ")
        assert record.licence == "CC0"
        ids = record.source.removeprefix("composed: ").split(" + ")
        assert len(set(ids)) == len(ids) >= 2
        assert {part.split("/")[0] for part in ids} == {record.split}
        said = [SOUNDS[record.split][int(part.split("/")[1])] for part in ids]
        assert all(caption in record.caption for caption in said)
        waveform = load_audio(record.path)
        assert len(waveform) == record.duration * RATE
        assert 0.01 < waveform.abs().max() <= 0.951


def test_the_parts_are_listed_with_their_levels(manifest):
    records = composed(manifest)
    lines = (manifest.parent / "composed.parts.jsonl").read_text().splitlines()
    parts = {line["id"]: line["parts"] for line in map(json.loads, lines)}
    for record in records:
        assert " + ".join(part["id"] for part in parts[record.id]) == record.source.removeprefix("composed: ")
        for part in parts[record.id]:
            assert part["begin"] + part["seconds"] <= record.duration + 1e-6
            assert scenes.LEVELS_DB[0] <= part["level_db"] <= scenes.LEVELS_DB[1]


def test_the_seed_decides(manifest):
    first, again = composed(manifest), composed(manifest, "again.jsonl")
    assert [record.caption for record in first] == [record.caption for record in again]
    assert all((load_audio(one.path) == load_audio(other.path)).all() for one, other in zip(first, again, strict=True))
    other = composed(manifest, "other.jsonl", seed=1)
    assert [record.caption for record in first] != [record.caption for record in other]


def test_too_few_sources_is_a_mistake(manifest):
    records = [record for record in read_manifest(manifest) if record.id in ("train/0", "train/1")]
    with pytest.raises(ValueError, match="no scene can be composed: 3 sources"):
        scenes.compose_scenes(records, manifest.parent / "c.jsonl", 5, 0)


def test_a_second_call_reads_no_sound_again(manifest, monkeypatch):
    first = composed(manifest)
    monkeypatch.setattr(scenes, "mix", None)
    assert composed(manifest) == first


def test_a_part_stays_within_its_record(tmp_path):
    """Records of 1 s in one long file do not become parts of 5 or 10 s, which hold other records' sounds."""
    soundfile.write(tmp_path / "long.flac", np.random.default_rng(0).normal(0, 0.1, 60 * RATE), RATE)
    records = [
        Record(f"{i}", str(tmp_path / "long.flac"), 10.0 * i, 1.0, caption, source=f"{i}")
        for i, caption in enumerate(SOUNDS["train"])
    ]
    clicks = [Record(f"click{i}", records[0].path, 5.0, 0.1, "a click", source=f"c{i}") for i in range(9)]
    starts = {record.id: record.start for record in records}
    scenes.compose_scenes(records + clicks, tmp_path / "composed.jsonl", 10, 0)
    for line in (tmp_path / "composed.parts.jsonl").read_text().splitlines():
        for part in json.loads(line)["parts"]:
            assert part["id"] in starts  # a click is too short, though its file is not
            assert starts[part["id"]] <= part["offset"]
            assert part["offset"] + part["seconds"] <= starts[part["id"]] + 1.0


def test_scenes_of_changed_recordings_are_made_again(manifest):
    first = composed(manifest)
    changed = manifest.parent / "train-0.wav"
    size = changed.stat().st_size
    soundfile.write(changed, np.random.default_rng(9).normal(0, 0.1, RATE), RATE)
    assert changed.stat().st_size == size
    for before, after in zip(first, composed(manifest), strict=True):
        assert (before.source, before.caption) == (after.source, after.caption)
        assert (before.path != after.path) == ("train/0" in before.source)


KILLED = """
import os, sys
from data_prep.corpus import scenes

os.fsync = lambda _: os._exit(9)  # all is written, but not under its name
scenes.main(sys.argv[1:])
"""


def test_a_killed_command_leaves_no_sound_behind(manifest):
    """What is being written has no audio file's name, and the next call removes what a dead process left."""
    out = manifest.parent / "composed.jsonl"
    done = subprocess.run([sys.executable, "-c", KILLED, "--manifest", str(manifest), "--out", str(out)])
    assert done.returncode == 9
    (left,) = (manifest.parent / "composed").iterdir()
    assert left.suffix == ".partial"
    records = composed(manifest)
    assert {str(path) for path in (manifest.parent / "composed").iterdir()} == {record.path for record in records}
