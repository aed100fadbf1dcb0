"""Files from strangers are read, or refused in one line, whatever is changed in them."""

import json
import os
import random
import zlib
from pathlib import Path

import pytest

from impact_pl.data.index import ShardIndex
from impact_pl.data.shards import LatentDataset
from impact_pl.errors import UserError
from impact_pl.models.impact import Impact
from impact_pl.models.spec import BUILTIN_FOLDER
from tests.helpers.mutations import is_refused_in_one_line, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        ("model.depth", 10**6, "key 'model.depth': input should be less than or equal to 512, got 1000000"),
        ("model.max_patches", 10**10, "key 'model.max_patches': input should be less than"),
        ("model.max_patches", 10**7, "its max_patches and dim ask for 1.6e+08 numbers, but model.safetensors has"),
        ("model.dim", 2**16, "its depth and dim ask for"),
        ("model.dim", 0, "key 'model.dim': input should be greater than or equal to 1, got 0"),
        ("model.num_heads", 0, "key 'model.num_heads'"),
        ("model.patch_size", 0, "key 'model.patch_size'"),
        ("model.head_width", 2**15, "its head_depth and head_width ask for"),
        ("model.num_timesteps", 1e308, "key 'model.num_timesteps': input should be a valid integer, got 1e+308"),
        ("latent_mean", [0.0] * 3, "key 'latent_mean': 3 means for 4 channels"),
        ("latent_mean", "0", "key 'latent_mean': input should be a valid array, got '0'"),
        ("codec", "${oc.env:HOME}", "key 'codec': input should be an object"),
        ("codec.name", None, "key 'codec.name' must be a string"),
        ("codec.sample_rate", 0, "key 'codec.sample_rate' must be from 1"),
        ("decoding.temperature", None, "decoding: key 'temperature': input should be a valid number, got None"),
        ("decoding.surprise", 1, "decoding: unknown key 'surprise'"),
    ],
)
def test_a_config_that_is_no_model_names_field_and_value(model, tmp_path, path, new, message):
    values = json.loads((model / "config.json").read_text())
    *owners, key = path.split(".")
    owner = values
    for name in owners:
        owner = owner[name]
    owner[key] = new
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    with pytest.raises(UserError) as caught:
        Impact.from_pretrained(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).endswith("; export the model again")


def test_the_models_of_this_package_are_read():
    assert (BUILTIN_FOLDER / "config.json").is_file()
    Impact.from_pretrained("builtin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["latents"]["shape"].append(5), "key 'latents.shape': list should have at most 3"),
        (
            lambda index: index["latents"].update(mean=[[[]], 0.0]),
            "key 'latents.mean.0': input should be a valid number",
        ),
        (lambda index: index["latents"].update(mean=[-1243.9, 0.0]), "more than 1000 times the standard deviation 1"),
        (lambda index: index["shards"][0].update(num_samples=10**9), "offsets that do not fit 1000000000 samples"),
        (lambda index: index["shards"][0]["crc32"].pop(), "6 checksums for 7 samples"),
        (lambda index: index["shards"][0].update(name="../x.tar"), "key 'shards.0.name'"),
    ],
)
def test_an_index_that_is_none_names_field_and_value(shards, change, message):
    index = json.loads((shards / "train" / "index.json").read_text())
    change(index)
    with pytest.raises(UserError) as caught:
        ShardIndex.parse(json.dumps(index), "index.json")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; precompute again")


def without_checksums(folder: Path) -> None:
    """As an earlier version wrote the index."""
    index = json.loads((folder / "index.json").read_text())
    for shard in index["shards"]:
        del shard["crc32"]
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("has_checksums", [True, False])
@pytest.mark.parametrize(
    ("at", "new"),
    [
        (124, b"-0000001000"),  # the size of a member: read as a number, it would begin the same member for ever
        (124, b"77777777777"),
        (124, b"+0000000700"),
        (257, b"ustaq"),
        (512 + 11, b"\x00"),  # inside an npy header
        (512 + 20, b"("),
        (512 + 60, b"9999999999"),
    ],
)
def test_damaged_headers_end_in_a_line(shards, has_checksums, at, new):
    folder = shards / "train"
    if not has_checksums:
        without_checksums(folder)
    content = bytearray((folder / "000000.tar").read_bytes())
    content[at : at + len(new)] = new
    (folder / "000000.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"000000\.tar: sample 0 .*damaged.*delete that file and run"):
        LatentDataset(folder)[0]


def test_every_flipped_bit_is_found(shards):
    """500 bits of headers and payload, in turn."""
    folder = shards / "train"
    dataset = LatentDataset(folder)
    path = folder / "000001.tar"
    original = path.read_bytes()
    random_bits = random.Random(0)
    for _ in range(500):
        at = random_bits.randrange(len(original))
        path.write_bytes(original[:at] + bytes([original[at] ^ 1 << random_bits.randrange(8)]) + original[at + 1 :])
        dataset._files.clear()
        with pytest.raises(UserError, match=r"000001\.tar: sample \d+ is damaged"):
            [dataset[i] for i in range(7, 19)]


def test_sets_without_checksums_are_read_and_never_hang(shards):
    """Whatever bit is flipped there, a sample is read or refused."""
    folder = shards / "train"
    without_checksums(folder)
    dataset = LatentDataset(folder)
    path = folder / "000000.tar"
    original = path.read_bytes()
    random_bits = random.Random(1)
    for _ in range(300):
        at = random_bits.randrange(len(original))
        path.write_bytes(original[:at] + bytes([original[at] ^ 1 << random_bits.randrange(8)]) + original[at + 1 :])
        dataset._files.clear()
        for i in range(7):
            is_refused_in_one_line(lambda i=i: dataset[i])


def test_checksums_are_of_the_bytes_between_offsets(shards):
    index = ShardIndex.load(shards / "train")
    entry = index.shards[0]
    content = (shards / "train" / entry["name"]).read_bytes()
    ends = [*list(entry["offsets"].values())[1:], os.path.getsize(shards / "train" / entry["name"])]
    pairs = zip(entry["offsets"].values(), ends, strict=True)
    assert entry["crc32"] == [zlib.crc32(content[begin:end]) for begin, end in pairs]
