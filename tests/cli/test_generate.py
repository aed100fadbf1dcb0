"""impact generate with a small model: what it says, variations, one sound made again alone, files that cannot be."""

import json
import os

import pytest
import soundfile
import torch

from impact_pl.audio import save_audio
from impact_pl.cli import generate
from impact_pl.cli.jobs import Job

QUICK = ["--iterations", "2", "--diffusion-steps", "3", "--duration", "0.5", "--device", "cpu"]


@pytest.fixture
def make(trained, run):
    """Run `impact generate` with the small model."""
    return lambda *argv: run(generate.main, *argv, "--model", trained / "text" / "model", *QUICK)


def test_the_last_line_says_what_was_made(make, trained, tmp_path, capsys):
    assert make("rain", "-o", tmp_path / "rain.wav", "--seed", 5) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"{tmp_path / 'rain.wav'}: 0.50 s at 16000 Hz, seed 5, model {trained / 'text' / 'model'}; 2 iterations of 3 "
        "diffusion steps, cosine guidance 5, preset exact, on cpu"
    )


def test_a_variation_is_the_sound_of_its_seed(make, tmp_path, capsys):
    assert make("rain", "-n", 3, "--seed", 7, "-o", tmp_path) == 0
    assert "3 sounds (3 generated, 0 were finished before): 0.50 s" in capsys.readouterr().out
    entries = [json.loads(line) for line in (tmp_path / "generated.jsonl").read_text().splitlines()]
    assert [entry["seed"] for entry in entries] == [7, 8, 9]
    assert make("rain", "--seed", entries[1]["seed"], "-o", tmp_path / "again.wav") == 0
    again, _ = soundfile.read(tmp_path / "again.wav")
    made, _ = soundfile.read(tmp_path / entries[1]["file"])
    assert abs(again - made).max() < 1e-4
    other, _ = soundfile.read(tmp_path / entries[0]["file"])
    assert abs(again - other).max() > 1e-3
    assert make("rain", "-n", 3, "--seed", 7, "-o", tmp_path) == 0
    assert "(0 generated, 3 were finished before)" in capsys.readouterr().out


def test_silent_and_clipped_sounds_are_warned_of(tmp_path, capsys):
    sounds = {"silent": torch.zeros(8000), "loud": torch.ones(8000), "fine": 0.1 * torch.randn(8000)}
    for name, waveform in sounds.items():
        save_audio(tmp_path / f"{name}.wav", waveform)
    args = generate.build_parser().parse_args(["x", "-o", str(tmp_path), "--model", str(tmp_path)])
    generate.summarise(args, [Job(name, tmp_path / f"{name}.wav") for name in sounds], 3)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert warnings[0].startswith(f"warning: {tmp_path / 'silent.wav'} is silent")
    assert warnings[1].startswith(f"warning: {tmp_path / 'loud.wav'} is clipped")


def test_places_that_cannot_be_written_are_told_before_a_model_is_loaded(run, tmp_path, capsys, monkeypatch):
    (tmp_path / "taken.wav").mkdir()
    (tmp_path / "file").touch()
    for out, named in (("taken.wav", "is a folder"), ("file/rain.wav", "file/rain.wav"), ("file/out", "file")):
        assert run(generate.main, "rain", "-o", tmp_path / out, "--model", tmp_path) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert named.split("/")[0] in said
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who may write anywhere
    assert run(generate.main, "rain", "-o", tmp_path / "rain.wav", "--model", tmp_path) == 2
    assert "no permission to write there" in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_file(make, tmp_path, capsys, monkeypatch):
    """/dev/full stands where the sound is being written: the kernel itself says that there is no space."""
    from impact_pl.partial import partial_path

    partial_path(tmp_path / "rain.wav").symlink_to("/dev/full")
    assert make("rain", "-o", tmp_path / "rain.wav") == 2
    said = capsys.readouterr().err
    assert f"error: {tmp_path / 'rain.wav'}: No space left on device; free some space" in said
    assert list(tmp_path.iterdir()) == []
