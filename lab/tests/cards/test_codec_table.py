import math
from dataclasses import replace

import pytest
import soundfile
import torch

from impact_pl.audio import fit_length
from impact_pl.codecs.base import AudioCodec
from impact_pl.codecs.registry import CODECS, load_codec
from impact_pl.data.manifest import Record, read_manifest, write_manifest
from lab.benchmark import subject
from lab.cards import codec_table
from lab.cards.codec_table import griffin_lim_of


def test_griffin_lim_control_plays_what_the_latents_hold():
    codec = load_codec("builtin")
    tone = 0.2 * (2 * math.pi * 1000 * torch.arange(16_000) / 16_000).sin()[None]
    latents = codec.encode(tone)[:, :64]
    played = griffin_lim_of(codec)(latents, torch.Generator())
    assert played.shape == (1, 16_000)
    loudest_bin = torch.fft.rfft(played[0]).abs().argmax()  # bins of 1 Hz
    assert abs(int(loudest_bin) - 1000) < 60
    assert 0.5 < played.std() / tone.std() < 2


def some_clips(tmp_path) -> str:
    """Six swelling noises, alternately training and validation; the manifest's path."""
    generator, records = torch.Generator().manual_seed(0), []
    for i in range(6):
        sound = 0.1 * torch.randn(20_000, generator=generator) * (i * torch.linspace(0, 9, 20_000)).cos()
        soundfile.write(tmp_path / f"{i}.wav", sound.numpy(), 16_000)
        records.append(Record(f"clip{i}", f"{i}.wav", split=("train", "valid")[i % 2]))
    write_manifest(tmp_path / "manifest.jsonl", records)
    return str(tmp_path / "manifest.jsonl")


def test_the_table_has_its_rows(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    codec = load_codec("builtin")
    codec.spec.mel_corrections = 0
    codec.save_pretrained(tmp_path / "drawn")
    arguments = ["--manifest", some_clips(tmp_path), "--errors", "0", "0.3", "--threads", "1"]
    codec_table.main([*arguments, "--codec", "builtin", f"drawn={tmp_path / 'drawn'}"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0][:6] == ["system", "numbers/s", "errors", "FD-YAMNet", "cosine", "top-1"]
    control = "builtin, Griffin-Lim"  # once: both codecs have the same latents
    expected = [["real", "-", "-"]]
    expected += [[name, "1600", error] for name in ("builtin", "drawn", control) for error in ("0", "0.3")]
    assert [row[:3] for row in rows[2:]] == expected
    mel_error = {(row[0], row[2]): float(row[rows[0].index("mel L1")]) for row in rows[3:]}
    assert mel_error["builtin", "0"] < mel_error["drawn", "0"]
    assert mel_error["builtin", "0"] < mel_error["builtin", "0.3"]


def test_any_codec_has_a_row(tmp_path, capsys, monkeypatch):
    """One without a mel spectrogram, of another rate: its row, and no control."""
    pytest.importorskip("onnxruntime")

    class Samples(AudioCodec):
        name = identity = "samples"
        sample_rate, samples_per_latent, latent_channels, latent_width = 8000, 8, 8, 1

        def encode(self, waveform):
            mean = fit_length(waveform, self.latent_frames(waveform.shape[-1]) * 8)
            mean = mean.unflatten(1, (-1, 8)).transpose(1, 2)[..., None]
            return torch.cat([mean, torch.full_like(mean, 1e-3)], dim=1)

        def decode(self, latents, generator=None):
            return latents[..., 0].transpose(1, 2).flatten(1)

    monkeypatch.setitem(CODECS, "samples", Samples)
    manifest = some_clips(tmp_path)
    codec_table.main(["--manifest", manifest, "--errors", "0", "--threads", "1", "--codec", "samples"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in line.split("|")[1:3]] for line in lines[2:]] == [
        ["real", "-"],
        ["samples", "8000"],
    ]


def test_vocoders_of_audioldm_s_mel_and_the_accuracy_of_labelled_clips(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    records = [replace(record, labels=("rain",)) for record in read_manifest(some_clips(tmp_path))]
    write_manifest(tmp_path / "manifest.jsonl", records)
    systems = ["fast=audioldm-mel:fast", "griffin_lim=audioldm-mel:griffin_lim"]
    codec_table.main(
        ["--manifest", str(tmp_path / "manifest.jsonl"), "--errors", "0", "--threads", "1", "--codec", *systems]
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    titles, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert [row[:2] for row in rows] == [["real", "-"], ["fast", "6400"], ["griffin_lim", "6400"]]
    assert all(0 <= float(row[titles.index("accuracy")]) <= 1 for row in rows)
    assert all(float(row[titles.index("mel L1")]) < 0.5 for row in rows[1:])


def test_reduced_precision_is_compared_with_float32(tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("diffusers")
    monkeypatch.setattr(subject, "VAE", subject.VAE | {"block_out_channels": [32, 32, 32]})
    monkeypatch.setattr(subject, "VOCODER", subject.VOCODER | {"upsample_initial_channel": 32})
    arguments = ["--manifest", some_clips(tmp_path), "--errors", "0", "--threads", "1", "--precision", "bf16"]
    codec_table.main([*arguments, "--codec", "random-audioldm", "fast=random-audioldm:fast", "audioldm-mel:hifigan"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    titles, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    names = ["random-audioldm", "fast", "audioldm-mel:hifigan"]
    reduced = [f"{name}, bf16{against}" for name in names for against in ("", " against float32")]
    assert [row[0] for row in rows] == ["real", *names, *reduced]
    assert all(float(row[titles.index("mel L1")]) < 0.3 for row in rows if row[0].endswith("float32"))


def test_a_split_without_clips_is_the_users_error(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    write_manifest(tmp_path / "manifest.jsonl", [Record("a", "a.wav")])
    with pytest.raises(SystemExit, match="2"):
        codec_table.main(["--manifest", str(tmp_path / "manifest.jsonl"), "--threads", "1"])
    assert "split 'valid'" in capsys.readouterr().err


WRONG = (["--ids", "("], ["--threads", "0"], ["--limit", "0"], ["--duration", "nan"], ["--seed", "-1"])


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_values_are_the_users_errors(wrong, capsys):
    with pytest.raises(SystemExit, match="2"):
        codec_table.main(["--manifest", "manifest.jsonl", *wrong])
    assert f"argument {wrong[0]}" in capsys.readouterr().err


def test_the_floor_needs_as_many_clips(tmp_path, capsys):
    """A distance depends on how many clips there are: fewer others would be another floor."""
    records = read_manifest(some_clips(tmp_path))
    records[0].split = "valid"
    write_manifest(tmp_path / "manifest.jsonl", records)
    with pytest.raises(SystemExit, match="2"):
        codec_table.main(["--manifest", str(tmp_path / "manifest.jsonl"), "--threads", "1"])
    assert "give --limit 2, or another --floor-split" in capsys.readouterr().err
