import math

import pytest
import soundfile
import torch

from impact_pl.cli import codec_table
from impact_pl.codec import load_codec
from impact_pl.data.manifest import Record, write_manifest


def test_griffin_lim_control_plays_what_the_latents_hold():
    codec = load_codec("builtin")
    tone = 0.2 * (2 * math.pi * 1000 * torch.arange(16_000) / 16_000).sin()[None]
    latents = codec.encode(tone)[:, :64]
    played = codec_table.control(codec)(latents, torch.Generator())
    assert played.shape == (1, 16_000)
    loudest_bin = torch.fft.rfft(played[0]).abs().argmax()  # bins of 1 Hz
    assert abs(int(loudest_bin) - 1000) < 60
    assert 0.5 < played.std() / tone.std() < 2


def test_the_table_has_its_rows(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    generator, records = torch.Generator().manual_seed(0), []
    for i in range(6):
        sound = 0.1 * torch.randn(20_000, generator=generator) * (i * torch.linspace(0, 9, 20_000)).cos()
        soundfile.write(tmp_path / f"{i}.wav", sound.numpy(), 16_000)
        records.append(Record(f"clip{i}", f"{i}.wav", split=("train", "valid")[i % 2]))
    write_manifest(tmp_path / "manifest.jsonl", records)
    codec_table.main(["--manifest", str(tmp_path / "manifest.jsonl"), "--errors", "0", "0.3", "--threads", "1"])
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    expected = [["system", "errors"], ["real", "-"]]
    expected += [[system, error] for error in ("0", "0.3") for system in ("codec", "Griffin-Lim")]
    assert rows[1:] == expected


def test_a_split_without_clips_is_the_users_error(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    write_manifest(tmp_path / "manifest.jsonl", [Record("a", "a.wav")])
    with pytest.raises(SystemExit, match="2"):
        codec_table.main(["--manifest", str(tmp_path / "manifest.jsonl")])
    assert "split 'valid'" in capsys.readouterr().err
