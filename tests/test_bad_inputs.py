"""What users get wrong: every case runs a command and sees one line that helps, exit code 2, and nothing lost."""

import csv
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from impact_pl.cli import data, evaluate, export, generate, precompute, train
from impact_pl.codecs.registry import load_codec
from impact_pl.data.shards import LatentDataset, ShardIndex, ShardWriter, describe_shard
from impact_pl.models.spec import BUILTIN_FOLDER
from impact_pl.partial import partial_path


@pytest.fixture
def fails(run, capsys):
    """Runs a command that has to fail as a user's mistake does; returns its message."""

    def fails(main, *argv) -> str:
        assert run(main, *argv) == 2
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("error: ")
        return message

    return fails


def stage(latents, runs, name, *more):
    return [f"name={name}", f"runs_dir={runs}", f"data.path={latents}", "model=tiny", "trainer=cpu",
            "trainer.max_steps=2", "data.batch_size=4", *more]  # fmt: skip


def copy_shards(latents, target, change):
    """A copy of the shards whose training index went through ``change``."""
    shutil.copytree(latents, target)
    for split in ("train", "valid"):
        path = target / split / "index.json"
        index = json.loads(path.read_text())
        change(index)
        path.write_text(json.dumps(index))
    return target


# Configuration


def test_misspelt_key(fails, latents, tmp_path):
    message = fails(train.main, "experiment=pretrain", *stage(latents, tmp_path, "x", "model.dept=2"))
    assert "there is no key model.dept; did you mean model.depth?" in message


def test_unknown_experiment(fails):
    message = fails(train.main, "experiment=pretain")
    assert "there is no experiment=pretain, choose one of base_no_clap, " in message
    assert message.strip().endswith(", pretrain_audioset_large, text, vocoder")


def test_no_shards_at_the_path(fails, tmp_path):
    message = fails(train.main, "experiment=pretrain", *stage(tmp_path / "nowhere", tmp_path, "x"))
    assert str(tmp_path / "nowhere") in message


# Sounds and captions


def test_missing_corrupt_silent_and_short_audio_is_listed_and_the_rest_is_used(run, sounds, tmp_path, capsys):
    records = [json.loads(line) for line in sounds.read_text().splitlines()][:6]
    for record in records:
        record["path"] = str(sounds.parent / record["path"])
    (tmp_path / "corrupt.wav").write_bytes(b"RIFF, but no sound")
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    soundfile.write(tmp_path / "short.wav", np.ones(100) / 2, 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    names = ["missing", "corrupt", "silent", "short", "nan"]
    records += [{"id": name, "path": f"{name}.wav", "caption": name} for name in names]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(record) + "\n" for record in records))

    assert run(precompute.main, f"manifest={manifest}", f"out={tmp_path / 'out'}", "clip_seconds=1.28") == 0
    assert "5 rejected" in capsys.readouterr().out
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    reasons = {line["id"]: line["reason"] for line in rejected}
    assert set(reasons) == set(names)
    for name, word in [("missing", "no such"), ("corrupt", "cannot be read"), ("silent", "silent"), ("nan", "NaN")]:
        assert word in reasons[name]
    assert "short" in reasons["short"]
    assert ShardIndex.load(tmp_path / "out" / "train").num_samples == 6


def test_only_unusable_audio(fails, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "manifest.jsonl").write_text('{"id": "a", "path": "a.wav"}\n')
    message = fails(precompute.main, f"manifest={tmp_path / 'manifest.jsonl'}", f"out={tmp_path / 'out'}")
    assert "a.wav" in message


def test_empty_caption_files(fails, sounds, tmp_path):
    for name in ("../elsewhere.wav", "/etc/hostname", "inside/../../elsewhere.wav"):
        (tmp_path / "captions.csv").write_text(f"file,caption\n{name},rain\n")
        argv = ["--audio", sounds.parent, "--captions", tmp_path / "captions.csv", "--out", tmp_path / "m.jsonl"]
        assert f"file {name!r} is outside of {sounds.parent}" in fails(data.main, "folder", *argv)
    (tmp_path / "captions.csv").write_text("")
    argv = ["--audio", sounds.parent, "--captions", tmp_path / "captions.csv", "--out", tmp_path / "m.jsonl"]
    assert "captions.csv" in fails(data.main, "folder", *argv)
    with open(tmp_path / "captions.csv", "w", newline="") as file:
        csv.writer(file).writerow(["file", "caption"])
    assert "captions.csv" in fails(data.main, "folder", *argv)
    (tmp_path / "captions.txt").write_text("\n\n")
    assert "holds no caption" in fails(generate.main, "--captions-file", tmp_path / "captions.txt")


# Shards


def test_full_disk_while_writing_a_shard(fails, run, sounds, latents, tmp_path):
    """/dev/full stands where the shard is being written: the kernel itself says that there is no space."""
    out = tmp_path / "out"
    argv = [f"manifest={sounds}", f"out={out}", "clip_seconds=1.28", "samples_per_shard=5"]
    (out / "train").mkdir(parents=True)
    partial = partial_path(out / "train" / "000001.tar")
    partial.symlink_to("/dev/full")
    message = fails(precompute.main, *argv)
    assert "the disk is full" in message
    assert "run the same command again" in message
    assert [path.name for path in sorted((out / "train").glob("*.tar")) + list((out / "train").glob(".*.partial"))] == [
        "000000.tar"
    ]  # finished, and kept

    assert run(precompute.main, *argv) == 0
    for shard in sorted((latents / "train").glob("*.tar")):  # the same bytes as of a run without trouble
        assert (out / "train" / shard.name).read_bytes() == shard.read_bytes()


def test_truncated_shard(fails, latents, tmp_path):
    damaged = tmp_path / "latents"
    shutil.copytree(latents, damaged)
    shard = damaged / "train" / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    message = fails(train.main, "experiment=pretrain", *stage(damaged, tmp_path, "x", "trainer.max_steps=3"))
    assert "000001.tar" in message
    assert "impact precompute" in message


def test_nan_in_the_data_keeps_the_last_checkpoint(fails, run, latents, tmp_path):
    arguments = stage(latents, tmp_path, "x")
    assert run(train.main, "experiment=pretrain", *arguments) == 0
    checkpoint = (tmp_path / "x" / "checkpoints" / "last.ckpt").read_bytes()
    poisoned = poison(latents, tmp_path / "poisoned")
    arguments = stage(poisoned, tmp_path, "x", "trainer.max_steps=9")
    assert "NaN" in fails(train.main, "experiment=pretrain", *arguments)
    assert (tmp_path / "x" / "checkpoints" / "last.ckpt").read_bytes() == checkpoint


def poison(latents, target):
    """A copy of the shards in which every training clip holds one NaN."""
    shutil.copytree(latents, target)
    dataset, path = LatentDataset(latents / "train"), target / "train" / "index.json"
    index = json.loads(path.read_text())
    for file in (target / "train").glob("*.tar"):
        file.unlink()
    with ShardWriter(target / "train" / "000000.tar") as writer:
        for i in range(len(dataset)):
            moments = dataset[i]["moments"].clone()
            moments[0, 0] = torch.nan
            writer.add(dataset[i]["key"], moments.half(), {}, {"id": dataset[i]["key"], "caption": None})
    index["shards"] = [describe_shard(target / "train" / "000000.tar")]
    path.write_text(json.dumps(index))
    return target


# Checkpoints and models


def test_stage_two_refuses_a_checkpoint_of_another_codec(fails, trained, latents, tmp_path):
    other = copy_shards(latents, tmp_path / "other", lambda index: index["codec"].update(identity="0123456789abcdef"))
    arguments = stage(other, tmp_path, "x", f"init_from={trained}/pretrain/model")
    message = fails(train.main, "experiment=text", *arguments)
    assert "codec builtin/" in message
    assert "0123456789abcdef" in message


def test_resume_refuses_shards_of_another_text_encoder(fails, trained, latents, tmp_path):
    def change(index):
        index["text_encoder"]["identity"] = "0123456789abcdef"

    other = copy_shards(latents, tmp_path / "other", change)
    shutil.copytree(trained / "text", tmp_path / "text")
    message = fails(train.main, "experiment=text", *stage(other, tmp_path, "text", "trainer.max_steps=9"))
    assert "text encoder minilm/" in message


def test_stage_two_refuses_another_shape(fails, trained, latents, tmp_path):
    arguments = stage(latents, tmp_path, "x", f"init_from={trained}/pretrain", "model.dim=64")
    assert "model.dim 32 -> 64" in fails(train.main, "experiment=text", *arguments)


def test_generation_refuses_a_model_of_another_codec(fails, trained, tmp_path):
    shutil.copytree(trained / "text" / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["codec"]["identity"] = "0123456789abcdef"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    message = fails(generate.main, "rain", "-o", tmp_path / "rain.wav", "--model", tmp_path / "model")
    assert (
        f"trained with codec 'builtin' (0123456789abcdef), this one is 'builtin' ({load_codec('builtin').identity})"
        in message
    )
    assert not (tmp_path / "rain.wav").exists()


def test_no_model_there(fails, tmp_path):
    assert "has no config.json" in fails(generate.main, "rain", "-o", tmp_path / "a.wav", "--model", tmp_path)


def test_damaged_weights(fails, trained, tmp_path):
    shutil.copytree(trained / "text" / "model", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    argv = ["rain", "-o", tmp_path / "a.wav", "--model", tmp_path / "model"]
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "model.safetensors is damaged, or not of this folder: its SHA-256" in fails(generate.main, *argv)
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "numbers, but model.safetensors has 1000 bytes; export the model again" in fails(generate.main, *argv)


def test_export_of_something_else(fails, sounds, tmp_path):
    assert "is not a readable checkpoint" in fails(export.main, sounds, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_replaces_no_model_unasked(fails, run, trained, tmp_path):
    argv = [trained / "pretrain", tmp_path / "model"]
    assert run(export.main, *argv) == 0
    assert "model has a config.json already: choose another folder, or replace it with --force" in fails(
        export.main, *argv, "--half"
    )
    assert run(export.main, *argv, "--half", "--force") == 0


def test_a_pickle_is_not_unpickled(fails, tmp_path):
    """A checkpoint from a stranger must not run code: pickle's REDUCE of os.system is refused unread."""
    import os
    import pickle

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)

    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(Attack()))
    fails(export.main, tmp_path / "evil.ckpt", tmp_path / "out")
    assert not (tmp_path / "owned").exists()


# Generation and evaluation


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--duration", "99"], "duration 99.0 s is outside"),
        (["--iterations", "0"], "num_iterations"),
        (["--diffusion-steps", "5000"], "num_diffusion_steps"),
        (["--temperature", "nan"], "temperature"),
    ],
)
def test_impossible_generation(fails, trained, tmp_path, options, words):
    argv = ["rain", "-o", tmp_path / "a.wav", "--model", trained / "text" / "model"]
    assert words in fails(generate.main, *argv, *options)


def test_evaluating_an_empty_folder(fails, sounds, tmp_path):
    (tmp_path / "empty").mkdir()
    message = fails(evaluate.main, "--generated", tmp_path / "empty", "--reference", sounds.parent)
    assert str(tmp_path / "empty") in message


# Training


def test_index_without_latents(fails, latents, tmp_path):
    damaged = copy_shards(latents, tmp_path / "damaged", lambda index: index.update(latents={}))
    message = fails(train.main, "experiment=pretrain", *stage(damaged, tmp_path, "x"))
    assert "index.json: key 'latents.shape' is missing" in message


def test_impossible_number(fails, latents, tmp_path):
    message = fails(train.main, "experiment=pretrain", *stage(latents, tmp_path, "x", "data.batch_size=0"))
    assert message == "error: data.batch_size=0: choose 1 or more"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["codec"].update(sample_rate=48000),
            "key 'codec.sample_rate': 48000, but codec 'builtin' has 16000",
        ),
        (lambda c: c["codec"].update(samples_per_latent=320), "key 'codec.samples_per_latent': 320, but codec"),
        (lambda c: c.update(num_frames=1024), "key 'num_frames': 1024 frames are 512 patches, but 'model.max_patches'"),
        (lambda c: c["latent_mean"].pop(), "key 'latent_mean': 63 means for 64 channels"),
        (lambda c: c.update(latent_std=0.0), "key 'latent_std': input should be greater than 0, got 0.0"),
        (lambda c: c["text_features"].update(minilm=[16, 384]), "key 'text_features.minilm': [16, 384], but text enc"),
    ],
)
def test_a_model_folder_that_disagrees_with_its_codec(fails, tmp_path, change, message):
    folder = shutil.copytree(BUILTIN_FOLDER, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    if config["text_features"]["minilm"][0] != 32:  # the weights have to fit, so that only the encoder can tell
        weights = load_file(folder / "model.safetensors")
        weights = {name: x[:, :16] if x.shape[:2] == (1, 32) else x for name, x in weights.items()}
        save_file(weights, folder / "model.safetensors")
        config["weights_sha256"] = None
        (folder / "config.json").write_text(json.dumps(config))
    said = fails(generate.main, "rain", "--model", folder, "--out", tmp_path / "out")
    assert said.startswith(f"error: {folder / 'config.json'}: {message}")
    assert said.endswith("; export the model again")
