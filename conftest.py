"""Fixtures that more than one test file needs: a small folder of sounds with captions, and what is made from it."""

import json

import numpy as np
import pytest
import soundfile
import torch

import impact_pl._torchaudio  # noqa: F401  # makes torchaudio, transformers and diffusers importable

torch.set_num_threads(1)  # tests are small, and pytest-xdist may run two at once

CAPTIONS = ["a high beep", "a low hum", "hiss of white noise", "a rising whistle"]
RATE = 16_000


def sound(kind: int, seed: int, seconds: float) -> np.ndarray:
    """A test signal (S,) of the kind that CAPTIONS[kind] tells."""
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    signals = [
        np.sin(2 * np.pi * random.uniform(2000, 3000) * t),
        np.sin(2 * np.pi * random.uniform(80, 160) * t),
        random.standard_normal(len(t)) / 3,
        np.sin(2 * np.pi * (300 + 400 * t) * t),
    ]
    return (0.5 * signals[kind]).astype(np.float32)


@pytest.fixture(scope="session")
def sounds(tmp_path_factory):
    """A manifest with 16 captioned clips of one second: 12 to train, 4 held out."""
    folder = tmp_path_factory.mktemp("sounds")
    records = []
    for index in range(16):
        kind = index % len(CAPTIONS)
        soundfile.write(folder / f"{index:02d}.wav", sound(kind, index, 1.0), RATE)
        split = "train" if index < 12 else "valid"
        records.append(
            {"id": f"clip{index:02d}", "path": f"{index:02d}.wav", "caption": CAPTIONS[kind], "split": split}
        )
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(record) + "\n" for record in records))
    return manifest


@pytest.fixture(scope="session")
def latents(sounds, tmp_path_factory):
    """The shards that impact precompute makes of ``sounds``."""
    from impact_pl.cli import precompute

    out = tmp_path_factory.mktemp("latents") / "out"
    arguments = [f"manifest={sounds}", f"out={out}", "clip_seconds=1.28", "samples_per_shard=5"]
    assert run_command(precompute.main, *arguments) == 0
    return out


@pytest.fixture(scope="session")
def trained(latents, tmp_path_factory):
    """Run directories of three steps of each stage: runs/pretrain and runs/text."""
    from impact_pl.cli import train

    runs = tmp_path_factory.mktemp("runs")
    common = ["model=tiny", "trainer=cpu", f"data.path={latents}", f"runs_dir={runs}"]
    common += ["trainer.max_steps=3", "data.batch_size=4", "optim.warmup_steps=1", "trainer.validate_every_steps=3"]
    assert run_command(train.main, "experiment=pretrain", "name=pretrain", *common) == 0
    assert run_command(train.main, "experiment=text", "name=text", f"init_from={runs}/pretrain/model", *common) == 0
    return runs


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """Moves to a folder with everything that docs/reproduce.md wants to be there."""
    from tests.helpers.reproduce import write_datasets

    monkeypatch.chdir(tmp_path)
    write_datasets()


@pytest.fixture(scope="session")
def run():
    """Runs a command's ``main`` in this process and returns its exit code."""
    return run_command


def run_command(main, *argv) -> int:
    try:
        main([str(arg) for arg in argv])
    except SystemExit as end:
        return end.code or 0
    return 0
