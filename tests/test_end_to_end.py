"""The way of the data through the commands, on small sounds: manifest, latents, both stages, generation."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import impact_pl
from impact_pl.cli import export, generate, train
from impact_pl.config import DecodingConfig
from impact_pl.data.shards import LatentDataset, ShardIndex
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.models import spec

QUICK = ["--iterations", 3, "--diffusion-steps", 4, "--duration", 1.0]


def test_precompute_gives_every_clip_with_text(latents):
    index = ShardIndex.load(latents / "train")
    dataset = LatentDataset(latents / "train")
    assert [index.num_samples, ShardIndex.load(latents / "valid").num_samples] == [12, 4]
    sample = dataset[0]
    channels, frames, width = index.latents["shape"]
    assert (channels, frames, width) == (64, 32, 1)  # 1.28 s at 25 latent frames a second
    assert sample["moments"].shape == (2 * channels, frames, width)
    assert sample["text"]["minilm"].shape == (32, 384)
    assert 4 <= int(sample["text_mask"].sum()) <= 12  # [CLS] a few words [SEP]


def test_stage_two_starts_from_stage_one(trained):
    for stage in ("pretrain", "text"):
        assert (trained / stage / "checkpoints" / "last.ckpt").is_file()
        assert (trained / stage / "model" / "model.safetensors").is_file()
    first = json.loads((trained / "pretrain" / "model" / "config.json").read_text())
    second = json.loads((trained / "text" / "model" / "config.json").read_text())
    assert first["text_encoder"] is None
    assert second["text_encoder"]["name"] == "minilm"
    assert second["latent_mean"] == first["latent_mean"]


def test_training_again_does_nothing(trained, latents, run, capsys):
    before = (trained / "text" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    arguments = ["experiment=text", "name=text", "model=tiny", "trainer=cpu", f"data.path={latents}"]
    arguments += [
        f"runs_dir={trained}",
        "trainer.max_steps=3",
        "data.batch_size=4",
        f"init_from={trained}/pretrain/model",
    ]
    assert run(train.main, *arguments) == 0
    assert "already trained to 3 steps" in capsys.readouterr().out
    assert (trained / "text" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


def test_generate_writes_audio_and_a_picture(trained, tmp_path, run):
    out = tmp_path / "beep.wav"
    model = trained / "text" / "model"
    assert run(generate.main, "a high beep", "-o", out, "--model", model, "--spectrogram", *QUICK) == 0
    waveform, rate = soundfile.read(out)
    assert (waveform.shape, rate) == ((16_000,), 16_000)
    assert np.abs(waveform).max() > 0
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_same_seed_same_file_bit_for_bit(trained, tmp_path, run):
    model = trained / "text" / "model"
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        argv = ["a low hum", "-o", tmp_path / f"{name}.wav", "--model", model, "--seed", seed, *QUICK]
        assert run(generate.main, *argv) == 0
    a, b, c = ((tmp_path / f"{name}.wav").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_same_seed_same_file_of_the_command_itself(trained, tmp_path):
    """Two processes, each with all of its threads, as a user starts them."""
    argv = ["-m", "impact_pl", "generate", "a low hum", "--model", trained / "text" / "model", "--seed", 1, *QUICK]
    made = []
    for name in ("one.wav", "two.wav"):
        subprocess.run([sys.executable, *map(str, argv), "-o", tmp_path / name], check=True, capture_output=True)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]


def test_the_built_in_model_is_found_by_name(trained, tmp_path, run, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(spec, "BUILTIN_FOLDER", tmp_path / "assets")
    assert run(generate.main, "a high beep", *QUICK) == 2
    assert "this installation has no built-in model" in capsys.readouterr().err
    assert run(export.main, trained / "text" / "model", tmp_path / "assets", "--half") == 0
    assert run(generate.main, "a high beep", "--page", "page.html", *QUICK) == 0
    waveform, _ = soundfile.read("a_high_beep.wav", dtype="float32")
    page = Path("page.html").read_text()
    assert page.count("data:audio/flac") == page.count("data:image/png") == page.count("<h3>a high beep</h3>") == 1
    pipeline = ImpactPipeline.from_pretrained("builtin")
    quick = replace(pipeline.model.spec.own_decoding, num_iterations=3, num_diffusion_steps=4)
    again = pipeline("a high beep", duration=1.0, decoding=quick).waveforms[0]
    assert np.abs(waveform - again.numpy()).max() < 1e-4  # 16 bits


def test_the_built_in_model_fits_the_built_in_parts():
    quick = DecodingConfig(num_iterations=3, num_diffusion_steps=4)
    waveforms = ImpactPipeline.from_pretrained()(
        ["a rooster crows", "rain falls"], 5.0, seed=1, decoding=quick
    ).waveforms
    assert waveforms.shape[0] == 2
    assert torch.isfinite(waveforms).all()
    assert (waveforms.square().mean(dim=1) > 1e-8).all()


def test_generation_continues_where_it_was_stopped(trained, tmp_path, run):
    def make(folder):
        captions = ["a high beep", "a low hum", "hiss"]
        assert (
            run(
                generate.main, *captions, "-o", folder, "--model", trained / "text" / "model", "--batch-size", 2, *QUICK
            )
            == 0
        )
        return {file.name: file.read_bytes() for file in folder.glob("*.wav")}

    whole = make(tmp_path / "whole")
    part = tmp_path / "part"
    make(part)
    (part / "0002_hiss.wav").unlink()  # as if it had been stopped before the second batch
    untouched = (part / "0000_a_high_beep.wav").stat().st_mtime_ns
    assert make(part) == whole
    assert (part / "0000_a_high_beep.wav").stat().st_mtime_ns == untouched


def test_pipeline_refuses_what_it_cannot_do(trained):
    pipeline = ImpactPipeline.from_pretrained(trained / "text" / "model")
    with pytest.raises(ValueError, match="at least one word"):
        pipeline(["rain", " "])
    with pytest.raises(ValueError, match=r"duration 99 s is outside"):
        pipeline("rain", duration=99)
    with pytest.raises(ValueError, match="unconditional"):
        ImpactPipeline.from_pretrained(trained / "pretrain" / "model")("rain")


def test_a_stage_one_model_generates_without_captions(trained):
    pipeline = ImpactPipeline.from_pretrained(trained / "pretrain" / "model")
    waveforms = pipeline(duration=1.0, num_iterations=2, num_diffusion_steps=3).waveforms
    assert waveforms.shape == (1, 16_000)
    assert torch.isfinite(waveforms).all()


def test_a_codec_folder_that_moved_is_named_anew(trained, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(trained / "pretrain" / "model", model)
    config = json.loads((model / "config.json").read_text())
    for name, wanted in ((str(tmp_path / "codec"), "FOLDER"), (f"audioldm:{tmp_path / 'codec'}", "audioldm:FOLDER")):
        config["codec"]["name"] = name
        (model / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=f"that folder is gone: locate it with --codec {wanted} "):
            ImpactPipeline.from_pretrained(model)
    moved = str(tmp_path / "moved")
    shutil.copytree(Path(impact_pl.__file__).parent / "assets" / "codec", moved)
    assert ImpactPipeline.from_pretrained(model, codec=moved).codec.name == moved


def test_generate_refuses_a_device_that_is_not_there(trained, run, capsys):
    assert run(generate.main, "a high beep", "--model", trained / "text" / "model", "--device", "foo") == 2
    assert "device 'foo': PyTorch sees cpu" in capsys.readouterr().err


@pytest.mark.gpu
def test_generation_on_a_gpu(trained):
    pipeline = ImpactPipeline.from_pretrained(trained / "text" / "model", device="cuda")
    quick = DecodingConfig(num_iterations=2, num_diffusion_steps=3)
    one, two = (pipeline("a high beep", duration=1.0, seed=1, decoding=quick).waveforms for _ in range(2))
    assert one.shape == (1, 16_000)
    assert torch.isfinite(one).all()
    assert torch.allclose(one, two, atol=1e-3)
