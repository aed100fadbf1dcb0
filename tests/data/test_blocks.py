"""Blocks of shards: a pure order, its quality in closed form, and resumes on other numbers of processes."""

import numpy as np
import pytest
import torch

from impact_pl.config import DataConfig
from impact_pl.data.datamodule import LatentDataModule
from impact_pl.data.order import SampleStream, SlotSampler

SIZES = [7, 12, 5, 9, 11, 8, 10]


def flat(batches) -> list[int]:
    return [i for batch in batches for i in batch]


@pytest.mark.parametrize("block_shards", [0, 1, 2, 3, 7, 50])
def test_every_epoch_holds_every_sample_once_in_an_order_of_its_own(block_shards):
    stream, n = SampleStream(SIZES, 3, block_shards), sum(SIZES)
    epochs = [[stream[p] for p in range(n * e, n * e + n)] for e in range(3)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    fresh = SampleStream(SIZES, 3, block_shards)
    positions = np.random.default_rng(0).permutation(3 * n)  # any position, without those before it
    assert [fresh[int(p)] for p in positions] == [epochs[p // n][p % n] for p in positions]
    assert epochs[0] != [SampleStream(SIZES, 4, block_shards)[p] for p in range(n)]


def test_a_block_touches_its_shards_alone_and_says_which_come_next():
    stream, n = SampleStream(SIZES, 0, 2), sum(SIZES)
    shard_of = np.repeat(np.arange(len(SIZES)), SIZES)
    blocks: dict[tuple[int, int], set[int]] = {}
    announced = {}
    for p in range(2 * n):
        block, shards = stream.next_shards(p)
        blocks.setdefault(block, set()).add(int(shard_of[stream[p]]))
        announced[block] = shards
    assert list(blocks) == [(epoch, number) for epoch in range(2) for number in range(4)]
    assert [len(shards) for shards in blocks.values()] == [2, 2, 2, 1] * 2
    for (block, shards), following in zip(list(blocks.items())[:-1], list(blocks.values())[1:], strict=True):
        assert set(announced[block]) == shards | following
        assert set(announced[block][: len(shards)]) == shards  # what is needed now comes first


@pytest.mark.parametrize("block_shards", [0, 8])
def test_quality_is_what_the_docstring_says(block_shards):
    """Neighbours of a shard are (m + 1) / 3 apart; two clips of a batch share a shard with chance (s - 1) / (m - 1)."""
    s, shards, batch = 16, 64, 16
    m = s * (block_shards or shards)
    stream, n = SampleStream([s] * shards, 0, block_shards), s * shards
    distances, shared = [], []
    for epoch in range(12):
        order = np.array([stream[p] for p in range(epoch * n, epoch * n + n)])
        place = np.empty(n, dtype=np.int64)
        place[order] = np.arange(n)
        distances.append(np.abs(np.diff(place.reshape(shards, s), axis=1)).mean())
        owners = (order // s).reshape(-1, batch)
        pairs = (owners[:, :, None] == owners[:, None, :]).sum() - owners.size
        shared.append(pairs / (owners.shape[0] * batch * (batch - 1)))
    assert np.mean(distances) == pytest.approx((m + 1) / 3, rel=0.03)
    assert np.mean(shared) == pytest.approx((s - 1) / (m - 1), rel=0.05)


@pytest.mark.parametrize("block_shards", [0, 2])
def test_an_epoch_moved_from_one_process_to_three_and_to_two_is_read_once(block_shards):
    """Steps of 4 clips a process: 3 on one, 2 on three, the rest on two."""
    n, size, done, read = sum(SIZES), 4, 0, []
    for world_size, steps in ((1, 3), (3, 2), (2, 4)):
        stream = SampleStream(SIZES, 5, block_shards)
        ranks = [flat(SlotSampler(stream, size, done, 0, steps, rank, world_size)) for rank in range(world_size)]
        assert {len(samples) for samples in ranks} == {steps * size}
        read += [i for step in range(steps) for samples in ranks for i in samples[step * size : (step + 1) * size]]
        done += steps * world_size * size
    assert len(read) == done > n
    assert sorted(read[:n]) == list(range(n))
    assert read == [SampleStream(SIZES, 5, block_shards)[p] for p in range(done)]


def test_prefetch_is_asked_for_once_a_block():
    asked = []
    sampler = SlotSampler(SampleStream(SIZES, 0, 3), 4, 0, 0, 20, prefetch=asked.append)
    list(sampler)
    assert len(asked) == 4  # 80 clips: three blocks of the first epoch, one of the second
    assert all(3 <= len(shards) <= 6 for shards in asked)


def test_the_order_of_whole_sets_has_not_changed():
    """A checkpoint of an earlier version goes on where it stood."""
    generator = torch.Generator().manual_seed(5712964121383671236)  # derive_seed(3, 1)
    assert [SampleStream([20, 30], 3)[p] for p in range(50, 100)] == torch.randperm(50, generator=generator).tolist()


def test_another_block_size_is_refused_in_the_middle_of_a_training(shards):
    data = LatentDataModule(DataConfig(path=str(shards), block_shards=2))
    with pytest.raises(ValueError, match=r"data\.block_shards=2, but this training began with 0.*set it back"):
        data.load_state_dict({"samples_consumed": 6, "step": 3})
    data.load_state_dict({"samples_consumed": 6, "step": 3, "block_shards": 2})
