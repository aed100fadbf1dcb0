"""Measures of edits: on signals with a known answer, and by the command itself with a tiny model."""

import numpy as np
import pytest
import soundfile
import torch

from impact_pl.data.manifest import Record, write_manifest
from lab.cards import editing_table
from lab.cards.aisfx import AisfxModel
from lab.cards.class_bars import CAPTIONS
from lab.cards.edits import FADE, SHARES, Clip, Editing, changes, paste
from tests.helpers.recordings import write_tiny_model

RATE = 16_000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)


def test_a_step_is_found_where_it_is():
    louder = noise(2)
    louder[RATE:] *= 4
    flux, level = changes(louder, [RATE]).T
    assert level == pytest.approx(12.04, abs=0.5)
    assert flux == pytest.approx(12, abs=2)
    assert changes(louder, [RATE // 2])[0, 1] < 1
    assert not changes(np.zeros(2 * RATE), [RATE]).any()


def test_a_tone_that_changes_at_equal_level_has_flux_and_no_step():
    time = np.arange(2 * RATE) / RATE
    tone = 0.3 * np.sin(2 * np.pi * np.where(time < 1, 1000, 3000) * time)
    flux, level = changes(tone, [RATE])[0]
    assert level < 0.1
    assert flux > 10 * changes(tone, [RATE // 2])[0, 0]


def test_percentiles_rank_among_the_recording_itself():
    clip = Clip("rain", torch.from_numpy(noise(3)))
    own = clip.percentiles(clip.waveform.numpy(), range(4000, 40_000, 500))
    assert own.mean(axis=0) == pytest.approx(50, abs=8)
    louder = clip.waveform.numpy().copy()
    louder[RATE:] *= 4
    assert clip.percentiles(louder, [RATE])[0, 1] == 100
    silent = Clip("rain", torch.zeros(2 * RATE))
    assert silent.percentiles(np.zeros(2 * RATE), [RATE])[0].tolist() == [50, 50]


@pytest.mark.parametrize("share", SHARES)
def test_a_region_has_its_share_and_a_margin(share):
    random = np.random.default_rng(0)
    for _ in range(50):
        start, stop = Editing.region(5 * RATE, share, random)
        assert stop - start == round(share * 5 * RATE)
        assert min(start, 5 * RATE - stop) >= (5 * RATE - (stop - start)) // 4


def test_a_paste_leaves_the_rest():
    one, other = torch.from_numpy(noise(1)), torch.from_numpy(noise(1, seed=1))
    pasted = paste(one, other, (4000, 8000))
    assert torch.equal(pasted[4000:8000], other[4000:8000])
    for rest in (slice(0, 4000 - FADE), slice(8000 + FADE, None)):
        assert torch.equal(pasted[rest], one[rest])


@pytest.mark.slow
def test_the_command_prints_three_tables(tmp_path, run, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(editing_table, "MINUTE", 2)
    monkeypatch.setattr(editing_table, "PIECE", 1)
    records = []
    for number, label in enumerate(CAPTIONS):
        for split in ("train", "valid"):
            name = f"{label}_{split}"
            soundfile.write(tmp_path / f"{name}.wav", noise(2, seed=number), RATE)
            records.append(Record(name, f"{name}.wav", split=split, labels=(label,)))
    write_manifest(tmp_path / "manifest.jsonl", records)
    model = write_tiny_model(tmp_path / "model")
    torch.manual_seed(0)
    state = {f"embedding_net.{name}": value for name, value in AisfxModel().state_dict().items()}
    torch.save((state, {}), tmp_path / "checkpoint.pth")
    argv = ["--manifest", tmp_path / "manifest.jsonl", "--aisfx", tmp_path / "checkpoint.pth", "--model", model]
    assert run(editing_table.main, *argv, "--per-class", 1, "--seeds", 2, "--stream-seeds", 1) == 0
    seams, filled, streams = (part.splitlines()[2:] for part in capsys.readouterr().out.strip().split("\n\n"))
    assert len(seams) == 8
    assert "| real, same points | 120 |" in seams[0]  # 10 clips, 3 shares, 2 joints, 2 seeds
    assert [line.split("|")[1:3] for line in filled[:3]] == [
        [" real ", " 10 "],
        [" codec ", " 10 "],
        [" 20%, right caption ", " 20 "],
    ]
    assert len(filled) == 8
    assert [line.split("|")[1].strip() for line in streams] == ["one caption"] * 3 + ["two captions"] * 3


def test_a_missing_checkpoint_is_refused(tmp_path, run, capsys):
    pytest.importorskip("onnxruntime")
    argv = ["--manifest", tmp_path / "none.jsonl", "--aisfx", tmp_path / "none.pth"]
    assert run(editing_table.main, *argv) == 2
    assert "none.pth is missing" in capsys.readouterr().err
