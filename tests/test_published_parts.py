"""The whole way through the commands with AudioLDM's codec, CLAP and T5: small, random, in published formats."""

import json
import shutil
from dataclasses import replace

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from impact_pl.cli import generate, precompute, reconstruct, train, verify
from impact_pl.config import DataConfig
from impact_pl.data.datamodule import LatentDataModule
from impact_pl.data.shards import LatentDataset, ShardIndex, collate
from impact_pl.text_encoders.registry import load_text_encoder
from impact_pl.training.checkpoint import load_averaged, read_checkpoint
from tests.helpers.published import save_audioldm, save_clap, save_t5

pytest.importorskip("diffusers", reason="the extra [audioldm] is not installed")
QUICK = ["--iterations", 2, "--diffusion-steps", 3, "--duration", 1.0]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Names of a codec and of a text encoder, and the folder of their files."""
    folder = tmp_path_factory.mktemp("published")
    codec = save_audioldm(folder / "audioldm")
    return f"audioldm:{codec}", f"clap:{save_clap(folder / 'clap')}+t5:{save_t5(folder / 't5')}", folder


@pytest.fixture(scope="module")
def shards(parts, sounds, run, tmp_path_factory):
    """The same clips with features precomputed, and with captions alone."""
    out = tmp_path_factory.mktemp("shards")
    for name, text_encoder in (("features", parts[1]), ("captions", "none")):
        given = [f"manifest={sounds}", f"codec={parts[0]}", f"text_encoder={text_encoder}", f"out={out / name}"]
        assert run(precompute.main, *given, "clip_seconds=1.28", "samples_per_shard=5") == 0
    return out


def training(shards, runs, *more) -> list[str]:
    small = ["experiment=text", "model=tiny", "model.patch_size=4", "trainer=cpu", "init_from=", f"runs_dir={runs}"]
    small += ["trainer.max_steps=2", "trainer.validate_every_steps=2", "data.batch_size=4", "optim.warmup_steps=1"]
    return [*small, "trainer.sample_every_steps=0", "model.dropout=0", f"data.path={shards}", *more]


@pytest.fixture(scope="module")
def runs(shards, parts, run, tmp_path_factory):
    """Two steps on precomputed features, and two on captions that are encoded while training."""
    runs = tmp_path_factory.mktemp("runs")
    assert run(train.main, *training(shards / "features", runs, "name=features")) == 0
    audio = ["trainer.sample_every_steps=2", "decoding.num_iterations=2", "decoding.num_diffusion_steps=3"]
    more = ["name=captions", f"data.text_encoder={parts[1]}", *audio]
    assert run(train.main, *training(shards / "captions", runs, *more)) == 0
    return runs


def test_shards_have_the_latents_and_the_features(shards, parts):
    index = ShardIndex.load(shards / "features" / "train")
    assert index.latents["shape"] == [8, 32, 16]
    assert index.codec["name"] == parts[0]
    assert index.text_encoder == load_text_encoder(parts[1]).describe()
    assert index.text_features == {"clap": (1, 20), "t5": (77, 12)}
    assert ShardIndex.load(shards / "captions" / "train").text_encoder is None
    sample = LatentDataset(shards / "features" / "train")[0]
    assert sample["text_mask"].shape == (78,)
    assert sample["text_mask"].sum() == 1 + len(sample["caption"].split()) + 1


def test_features_made_while_training_are_the_precomputed_ones(shards, parts):
    stored = LatentDataModule(DataConfig(path=str(shards / "features")))
    made = LatentDataModule(DataConfig(path=str(shards / "captions"), text_encoder=parts[1]))
    assert made.index.text_encoder == stored.index.text_encoder
    expected, batch = (collate([data._open("train")[i] for i in range(5)]) for data in (stored, made))
    assert batch["text"] is None
    batch = made.on_after_batch_transfer(batch, 0)
    assert torch.equal(batch["text"].mask, expected["text"].mask)
    for name, feature in batch["text"].features.items():
        torch.testing.assert_close(feature.half().float(), expected["text"].features[name], atol=1e-3, rtol=1e-3)
    assert stored.on_after_batch_transfer(expected, 0) is expected


def test_both_ways_train_the_same_model_and_leave_the_encoder_out(runs, parts):
    stored, made = (read_checkpoint(runs / name / "checkpoints" / "last.ckpt") for name in ("features", "captions"))
    assert made["state_dict"].keys() == stored["state_dict"].keys()
    assert {name.split(".")[0] for name in made["state_dict"]} == {"model", "ema"}
    for name, value in stored["state_dict"].items():
        torch.testing.assert_close(made["state_dict"][name], value, atol=1e-3, rtol=1e-2)
    a, b = (load_averaged(runs / name / "model").spec for name in ("features", "captions"))
    assert replace(a, decoding={}) == replace(b, decoding={})  # the experiments decode differently
    encoder = load_text_encoder(parts[1])
    assert a.text_encoder == {"name": encoder.name, "identity": encoder.identity}


def test_generation_finds_the_parts_by_name(runs, run, tmp_path):
    for name in ("features", "captions"):
        out = tmp_path / f"{name}.wav"
        assert run(generate.main, "a low hum", "-o", out, "--model", runs / name / "model", *QUICK) == 0
        waveform, rate = soundfile.read(out)
        assert (waveform.shape, rate) == ((16_000,), 16_000)
        assert abs(waveform).max() > 0


def test_another_vocoder_plays_the_same_latents(runs, parts, sounds, run, tmp_path, capsys):
    given = ["a low hum", "-o", tmp_path / "hum.wav", "--model", runs / "features" / "model", *QUICK]
    assert run(generate.main, *given) == 0
    own, _ = soundfile.read(tmp_path / "hum.wav")
    assert run(generate.main, *given, "--vocoder", "fast") == 0
    fast, _ = soundfile.read(tmp_path / "hum.wav")
    assert fast.shape == own.shape
    assert abs(fast - own).max() > 0
    assert run(generate.main, *given, "--vocoder", "wavenet") == 2
    assert "no vocoder 'wavenet': choose hifigan, fast, griffin_lim, or a folder" in capsys.readouterr().err
    clips = ["--manifest", sounds, "--duration", "1.28", "--limit", "1", "--vocoder", "fast"]
    made = ["--real", tmp_path / "real", "--reconstructed", tmp_path / "made"]
    assert run(reconstruct.main, *clips, *made, "--codec", parts[0]) == 0
    assert len(list((tmp_path / "made").iterdir())) == 1
    assert run(reconstruct.main, *clips, *made) == 2
    assert "codec 'builtin' has none to choose" in capsys.readouterr().err


def test_an_encoder_that_moved_is_named_anew_and_another_is_refused(runs, parts, run, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(runs / "captions" / "model", model)
    config = json.loads((model / "config.json").read_text())
    config["text_encoder"]["name"] = parts[1].replace(str(parts[2]), str(tmp_path))
    (model / "config.json").write_text(json.dumps(config))
    given = ["a low hum", "-o", tmp_path / "hum.wav", "--model", model, *QUICK]
    assert run(generate.main, *given) == 2
    assert (
        "clap: no such folder; a repository on the Hugging Face hub is written hub:OWNER/NAME (the text encoder"
        in capsys.readouterr().err
    )
    assert run(generate.main, *given, "--text-encoder", parts[1]) == 0
    assert run(generate.main, *given, "--text-encoder", "minilm") == 2
    assert "use the text encoder it was trained with" in capsys.readouterr().err


def test_features_of_another_encoder_are_refused_or_encoded_anew(shards, parts, run, runs, tmp_path, capsys):
    other = f"t5:{save_t5(tmp_path / 'other', seed=1)}"
    given = training(shards / "features", tmp_path, "name=other", f"data.text_encoder={other}")
    assert run(train.main, *given) == 2
    said = capsys.readouterr().err
    assert f"hold features of text encoder '{parts[1]}'" in said
    assert "data.encode_captions=true" in said
    assert run(train.main, *given, "data.encode_captions=true") == 0
    assert load_averaged(tmp_path / "other" / "model").spec.text_features == {"t5": (77, 12)}
    # The shards' own encoder, named: nothing to encode.
    data = LatentDataModule(DataConfig(path=str(shards / "features"), text_encoder=parts[1]))
    assert data.text_encoder is None
    assert run(train.main, *training(shards / "features", tmp_path, "name=x", "data.encode_captions=true")) == 2
    assert "data.encode_captions=true needs an encoder" in capsys.readouterr().err
    assert run(train.main, *training(shards / "features", tmp_path, "name=x", "data.text_encoder=none")) == 2
    assert "data.text_encoder=none: leave it empty" in capsys.readouterr().err
    assert run(train.main, *training(shards / "captions", tmp_path, "name=x")) == 2
    assert "name a data.text_encoder=..." in capsys.readouterr().err
    shutil.copytree(runs / "captions", tmp_path / "captions")
    more = ["name=captions", f"data.text_encoder={other}", "trainer.max_steps=3"]
    assert run(train.main, *training(shards / "captions", tmp_path, *more)) == 2
    assert "text encoder clap:" in capsys.readouterr().err


def test_stage_1_loads_no_text_encoder(shards, tmp_path, run):
    given = training(shards / "captions", tmp_path, "name=first", "data.text_encoder=t5:/gone")
    assert run(train.main, "experiment=pretrain", *given[1:]) == 0


def test_continuing_and_verifying_notice_another_encoder(shards, parts, sounds, run, tmp_path, capsys):
    text, out = save_t5(tmp_path / "t5"), tmp_path / "out"
    given = [f"manifest={sounds}", f"out={out}", "clip_seconds=1.28", "samples_per_shard=5", f"text_encoder=t5:{text}"]
    assert run(precompute.main, *given) == 0
    assert run(verify.main, out) == 0
    assert run(precompute.main, *given) == 0
    assert "nothing to do" in capsys.readouterr().out
    weights = load_file(text / "model.safetensors")
    weights["shared.weight"] += 1e-3
    save_file(weights, text / "model.safetensors", {"format": "pt"})
    assert run(verify.main, out) == 2
    assert "stale text_encoder: made by t5:" in capsys.readouterr().out
    assert run(precompute.main, *given) == 2
    assert "was begun with text_encoder t5:" in capsys.readouterr().err
    shutil.rmtree(text)
    assert run(verify.main, out) == 2
    assert "its text_encoder cannot be compared" in capsys.readouterr().out
    assert run(verify.main, shards / "features") == 0
