"""Shards: exact round trip, readable by webdataset itself, complete or absent, and damage is named."""

import errno
import io
import json

import numpy as np
import pytest
import torch
import webdataset

from impact_pl.data import shards
from impact_pl.data.members import split_members
from impact_pl.data.shards import LatentDataset, ShardIndex, ShardWriter, collate, describe_shard

FEATURES = {"words": [3, 4], "sentence": [1, 2]}


def make_samples(count: int = 5) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    samples = []
    for i in range(count):
        moments = torch.randn(4, 6, 1, generator=generator).half()
        caption = None if i == 2 else f"sound number {i}, écoute"
        text = {
            "words": torch.randn(1 + i % 3, 4, generator=generator),
            "sentence": torch.randn(1, 2, generator=generator),
        }
        meta = {"id": f"pack/{i}", "caption": caption, "source": "s", "licence": "CC0", "split": "train"}
        samples.append({"key": f"{i:06d}-a", "moments": moments, "text": text if caption else {}, "meta": meta})
    return samples


def write(path, samples) -> None:
    with ShardWriter(path) as writer:
        for sample in samples:
            writer.add(sample["key"], sample["moments"], sample["text"], sample["meta"])


def write_folder(folder, samples=None, features=FEATURES):
    samples = make_samples() if samples is None else samples
    folder.mkdir(exist_ok=True)
    write(folder / "000000.tar", samples[:3])
    write(folder / "000001.tar", samples[3:])
    encoder = {"name": "toy", "identity": "1", "features": features} if features else None
    latents = {"shape": [2, 6, 1], "mean": [0.0, 0.0], "std": 1.0}
    codec = {"name": "toy", "identity": "0", "sample_rate": 16000, "samples_per_latent": 640}
    entries = [describe_shard(folder / f"00000{i}.tar") for i in range(2)]
    ShardIndex(codec, encoder, latents, 0.24, entries).save(folder)
    return samples


def test_round_trip_pads_text_and_keeps_order(tmp_path):
    samples = write_folder(tmp_path / "train")
    dataset = LatentDataset(tmp_path / "train")
    assert len(dataset) == 5 == dataset.index.num_samples
    for i in (4, 0, 3, 1, 2):
        got, want = dataset[i], samples[i]
        assert got["key"] == want["key"]
        assert got["caption"] == (want["meta"]["caption"] or "")
        assert torch.equal(got["moments"], want["moments"].float())
        count = len(want["text"].get("words", []))
        assert got["text"]["words"].shape == (3, 4)
        assert torch.equal(got["text"]["words"][:count], want["text"].get("words", torch.zeros(0, 4)).half().float())
        assert got["text"]["words"][count:].abs().sum() == 0
        assert got["text_mask"].tolist() == [j < count for j in range(3)] + [count > 0]


def test_collate_without_text(tmp_path):
    samples = [{**sample, "text": {}} for sample in make_samples()]
    write_folder(tmp_path / "train", samples, features=None)
    dataset = LatentDataset(tmp_path / "train")
    batch = collate([dataset[0], dataset[2]])
    assert batch["text"] is None
    assert batch["moments"].shape == (2, 4, 6, 1)
    assert batch["keys"] == ["000000-a", "000002-a"]
    assert batch["captions"] == ["sound number 0, écoute", ""]


def test_collate_stacks_text_features(tmp_path):
    pytest.importorskip("impact_pl.text_encoders.registry")
    from impact_pl.text_encoders.base import TextFeatures

    write_folder(tmp_path / "train")
    dataset = LatentDataset(tmp_path / "train")
    text = collate([dataset[0], dataset[1], dataset[2]])["text"]
    assert isinstance(text, TextFeatures)
    assert list(text.features) == ["words", "sentence"]
    assert text.features["words"].shape == (3, 3, 4)
    assert text.mask.sum(dim=1).tolist() == [2, 3, 0]


def test_webdataset_reads_the_shards(tmp_path):
    samples = write_folder(tmp_path / "train")
    urls = [str(tmp_path / "train" / f"00000{i}.tar") for i in range(2)]
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in read] == [sample["key"] for sample in samples]
    for got, want in zip(read, samples, strict=True):
        assert np.array_equal(got["moments.npy"], want["moments"].numpy())
        assert got["json"] == want["meta"]
        assert ("words.npy" in got) == bool(want["text"])


def test_equal_samples_give_equal_bytes(tmp_path):
    write(tmp_path / "a.tar", make_samples())
    write(tmp_path / "b.tar", make_samples())
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    entry = describe_shard(tmp_path / "a.tar")
    assert entry["num_samples"] == 5
    assert entry["bytes"] == (tmp_path / "a.tar").stat().st_size
    assert list(entry["offsets"]) == [sample["key"] for sample in make_samples()]


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    sample = make_samples()[0]

    def interrupted():
        yield sample
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.tar", interrupted())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", [0, 3000])  # full at once, and full when the buffer is flushed at the end
def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path, monkeypatch, room):
    class FullDisk(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(shards, "open", lambda path, mode: FullDisk(path, mode), raising=False)
    with pytest.raises(ValueError, match=r"a\.tar: the disk is full .*run the same command again"):
        write(tmp_path / "a.tar", make_samples())
    assert list(tmp_path.iterdir()) == []


def test_other_write_errors_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "nowhere" / "a.tar", make_samples())


@pytest.mark.parametrize("keep", [100, 3000, 10239])
def test_a_truncated_shard_is_named(tmp_path, keep):
    folder = tmp_path / "train"
    write_folder(folder)
    content = (folder / "000000.tar").read_bytes()
    dataset = LatentDataset(folder)
    (folder / "000000.tar").write_bytes(content[:keep])
    with pytest.raises(ValueError, match=rf"000000\.tar: shard is truncated \({keep} of {len(content)} bytes\);"):
        LatentDataset(folder)
    with pytest.raises(ValueError, match=r"000000\.tar: truncated"):
        describe_shard(folder / "000000.tar")
    if keep < 10239:  # truncated while in use; at 10239 only the tar's padding is gone
        with pytest.raises(ValueError, match=r"000000\.tar: .*(truncated|incomplete)"):
            [dataset[i] for i in range(3)]
    (folder / "000000.tar").unlink()
    with pytest.raises(ValueError, match=r"000000\.tar: shard is missing"):
        LatentDataset(folder)


def test_non_finite_moments_name_the_sample(tmp_path):
    samples = make_samples()
    samples[1]["moments"][0, 0, 0] = torch.inf
    write_folder(tmp_path / "train", samples)
    dataset = LatentDataset(tmp_path / "train")
    dataset[0]
    with pytest.raises(ValueError, match=r"sample 1 \(000001-a, pack/1\) has moments with NaN"):
        dataset[1]


def test_bad_indices_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"index\.json: no index of latent shards"):
        ShardIndex.load(tmp_path)
    (tmp_path / "index.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="expected a JSON object"):
        ShardIndex.load(tmp_path)
    (tmp_path / "index.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="key 'format': input should be 1, got 99; precompute again"):
        ShardIndex.load(tmp_path)
    write_folder(tmp_path)
    values = json.loads((tmp_path / "index.json").read_text())
    values["surprise"] = 1
    (tmp_path / "index.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="surprise"):
        ShardIndex.load(tmp_path)


def test_a_name_that_fills_its_field(tmp_path):
    """A hundred bytes: the most that a USTAR header holds, and no zero ends it."""
    sample = make_samples()[0]
    key = "x" * (100 - len(".sentence.npy"))
    write(tmp_path / "a.tar", [{**sample, "key": key}])
    found, members = split_members((tmp_path / "a.tar").read_bytes())
    assert found == key
    assert set(members) == {"moments.npy", "words.npy", "sentence.npy", "json"}
