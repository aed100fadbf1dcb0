"""A folder of small shards, without text."""

import pytest
import torch

from impact_pl.data.shards import ShardIndex, ShardWriter, describe_shard


def write_split(folder, sizes: list[int], seed: int = 0) -> None:
    """Shards of so many samples each; sample i is called ``clip<i>``."""
    folder.mkdir(parents=True)
    generator, first = torch.Generator().manual_seed(seed), 0
    for number, size in enumerate(sizes):
        with ShardWriter(folder / f"{number:06d}.tar") as writer:
            for i in range(first, first + size):
                meta = {"id": str(i), "caption": None, "source": "", "licence": "", "split": folder.name}
                writer.add(f"clip{i}", torch.randn(4, 3, 1, generator=generator), {}, meta)
        first += size
    latents = {"shape": [2, 3, 1], "mean": [0.0, 0.0], "std": 1.0}
    shards = [describe_shard(folder / f"{number:06d}.tar") for number in range(len(sizes))]
    ShardIndex({"name": "toy", "identity": "0"}, None, latents, 0.12, shards).save(folder)


@pytest.fixture
def shards(tmp_path):
    """train/ of seven shards with 62 samples, valid/ of one with 5."""
    write_split(tmp_path / "shards" / "train", [7, 12, 5, 9, 11, 8, 10])
    write_split(tmp_path / "shards" / "valid", [5], seed=1)
    return tmp_path / "shards"
