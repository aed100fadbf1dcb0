"""Damaged bytes are found when a checkpoint or a weight file is read, and the checkpoint before takes over."""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from impact_pl.codecs.registry import load_codec
from impact_pl.errors import UserError
from impact_pl.models.impact import Impact
from impact_pl.training.checkpoint import export, find_checkpoint
from impact_pl.training.checkpoint_files import META, StoredCheckpoint, find, shard_name, write_file
from impact_pl.training.fit import train

FLIPS = 300


def flip(path: Path, position: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))


def position_of(path: Path, tensor: torch.Tensor) -> int:
    """Where the numbers of a tensor begin in a file."""
    position = path.read_bytes().find(tensor.numpy().tobytes())
    assert position > 0
    return position


def weight_of(checkpoint: Path) -> torch.Tensor:
    content = torch.load(checkpoint, weights_only=True)
    return content["state_dict"]["model.encoder.enc1.blocks.0.attn.proj.weight"]


def test_any_flipped_bit_of_a_checkpoint_is_found_or_without_effect(tmp_path):
    """Also in the archive's own headers, where some bytes (dates, padding) mean nothing."""
    whole = tmp_path / "whole.ckpt"
    content = {"state_dict": {"a": torch.randn(40), "b": torch.arange(30)}, "step": 7}
    write_file(content, whole)
    draw = random.Random(0)
    silent = 0
    for i in range(FLIPS):
        path = tmp_path / f"{i}.ckpt"
        shutil.copy(whole, path)
        flip(path, draw.randrange(path.stat().st_size), draw.randrange(8))
        try:
            read = StoredCheckpoint(path).read()
        except UserError:
            continue
        silent += 1
        assert read["step"] == 7
        assert all(torch.equal(read["state_dict"][name], value) for name, value in content["state_dict"].items())
    assert silent < FLIPS


@pytest.mark.parametrize("damaged", [META, shard_name(1, 2)])
def test_a_damaged_folder_gives_way_to_the_one_before(tmp_path, caplog, damaged):
    for name, number in (("last.ckpt", 2), ("last.ckpt.old", 1)):
        folder = tmp_path / name
        folder.mkdir()
        for rank in range(2):
            write_file({"a": torch.full((8,), rank + 0.5)}, folder / shard_name(rank, 2))
        write_file({"num_shards": 2, "checkpoint": {"number": torch.tensor([number + 0.25])}}, folder / META)
    path = tmp_path / "last.ckpt"
    assert find(path) == path
    value = torch.tensor([2.25]) if damaged == META else torch.full((8,), 1.5)
    flip(path / damaged, position_of(path / damaged, value))
    assert find(path) == tmp_path / "last.ckpt.old"
    assert f"{path / damaged} is not a readable checkpoint" in caplog.text
    assert "using the previous checkpoint instead" in caplog.text


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(config, tmp_path, caplog):
    """The training goes on from there and ends with the weights of an undisturbed one."""
    whole = dataclasses.replace(config, name="whole")
    train(whole)
    config.trainer.max_steps = 6
    train(config)
    last = Path(config.runs_dir) / "run" / "checkpoints" / "last.ckpt"
    flip(last, position_of(last, weight_of(last)) + 5)
    assert find_checkpoint(last.parents[1]) == last.with_name("last.ckpt.old")
    train(config)
    assert f"{last} is not a readable checkpoint" in caplog.text
    assert "previous checkpoint instead" in caplog.text
    assert sorted(file.name for file in last.parent.iterdir()) == [
        *("last.ckpt", "last.ckpt.damaged", "last.ckpt.old"),
    ]
    models = [Impact.from_pretrained(Path(config.runs_dir) / name / "model").state_dict() for name in ("run", "whole")]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_without_one_before_a_damaged_checkpoint_is_refused(config):
    config.trainer.max_steps = 3
    train(config)
    last = Path(config.runs_dir) / "run" / "checkpoints" / "last.ckpt"
    assert find(last) == last
    flip(last, position_of(last, weight_of(last)))
    for call in (lambda: train(config), lambda: export(last, last.with_name("out"))):
        with pytest.raises(UserError, match=r"last\.ckpt is not a readable checkpoint \(.*checksum"):
            call()


def test_damaged_weights_of_a_model_and_of_a_codec_are_refused(tmp_path, config, caplog):
    config.trainer.max_steps = 0
    train(config)
    model = Path(config.runs_dir) / "run" / "model"
    codec = tmp_path / "codec"
    load_codec("builtin").save_pretrained(codec)
    for folder, load in ((model, Impact.from_pretrained), (codec, lambda folder: load_codec(str(folder)))):
        load(folder)
        assert not caplog.text
        weights = folder / "model.safetensors"
        flip(weights, weights.stat().st_size - 3)
        with pytest.raises(UserError, match=r"model\.safetensors is damaged, or not of this folder"):
            load(folder)
        noted = json.loads((folder / "config.json").read_text())
        del noted["weights_sha256"]
        (folder / "config.json").write_text(json.dumps(noted))
        load(folder)  # of an earlier version
        assert "cannot be checked" in caplog.text
        caplog.clear()


def test_all_files_of_a_folder_have_the_same_rights(tmp_path, config):
    config.trainer.max_steps = 0
    train(config)
    folder = Path(config.runs_dir) / "run" / "model"
    load_codec("builtin").save_pretrained(tmp_path / "codec")
    for made in (folder, tmp_path / "codec"):
        (tmp_path / "plain").touch()
        assert {file.stat().st_mode for file in made.iterdir()} == {(tmp_path / "plain").stat().st_mode}
