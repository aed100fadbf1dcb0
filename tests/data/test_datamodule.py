"""The order of samples: a permutation an epoch, the same on any number of processes, resumable anywhere."""

import json
import re
from types import SimpleNamespace

import pytest
import torch

from impact_pl.config import DataConfig
from impact_pl.data.datamodule import LatentDataModule
from impact_pl.data.order import MixedStream, SampleStream, SlotSampler, ValidationSampler, derive_seed
from impact_pl.data.shards import LatentDataset, ShardIndex, ShardWriter, describe_shard
from tests.helpers.latents import CODEC, write_latents, write_split


def flat(batches) -> list[int]:
    return [i for batch in batches for i in batch]


def test_every_epoch_is_its_own_permutation():
    stream = SampleStream([50], seed=3)
    epochs = [[stream[p] for p in range(50 * e, 50 * e + 50)] for e in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [SampleStream([50], seed=3)[p] for p in (149, 7, 60)] == [epochs[2][49], epochs[0][7], epochs[1][10]]
    assert epochs[0] != [SampleStream([50], seed=4)[p] for p in range(50)]


def test_derived_seeds_do_not_collide():
    seeds = {derive_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 4), (2, 2), (4, 1)])
def test_slots_are_the_same_however_they_are_spread(world_size, accumulate):
    """Slot (micro, rank) of a step holds the same clips for one process with four micro-batches and for four."""
    whole = list(SlotSampler(SampleStream([10], 0), 3, start=0, steps_done=0, max_steps=5, accumulate=4))
    per_rank = [
        list(SlotSampler(SampleStream([10], 0), 3, 0, 0, 5, rank, world_size, accumulate)) for rank in range(world_size)
    ]
    assert {len(batches) for batches in per_rank} == {5 * accumulate}
    assert [batch for same_time in zip(*per_rank, strict=True) for batch in same_time] == whole
    assert flat(whole) == [SampleStream([10], 0)[p] for p in range(60)]


def test_resume_continues_and_may_change_the_number_of_processes():
    stream = SampleStream([7], 1)
    whole = flat(SlotSampler(stream, 2, start=0, steps_done=0, max_steps=9))
    resumed = SlotSampler(stream, 2, start=8, steps_done=4, max_steps=9)
    assert flat(resumed) == whole[8:]
    assert len(resumed) == 9  # Lightning counts the four steps before it in
    ranks = [flat(SlotSampler(stream, 2, 8, 4, 6, rank, world_size=2)) for rank in range(2)]
    assert sorted(ranks[0] + ranks[1]) == sorted(whole[8:16])  # two steps of four clips: none lost, none twice


@pytest.mark.parametrize(("num_samples", "batch_size", "world_size"), [(10, 4, 1), (10, 4, 2), (9, 2, 3), (1, 4, 2)])
def test_validation_reaches_every_sample_with_equal_batches_on_all_ranks(num_samples, batch_size, world_size):
    ranks = [list(ValidationSampler(num_samples, batch_size, rank, world_size)) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    assert set(flat(flat(ranks))) == set(range(num_samples))
    counted = [
        batch
        for rank, batches in enumerate(ranks)
        for i, batch in enumerate(batches)
        if i * world_size + rank < -(-num_samples // batch_size)
    ]
    assert sorted(flat(counted)) == list(range(num_samples))  # what the module gives weight to


def test_module_reads_batches_and_counts_samples(tmp_path):
    for split, count in (("train", 6), ("valid", 3)):
        (tmp_path / split).mkdir()
        with ShardWriter(tmp_path / split / "000000.tar") as writer:
            for i in range(count):
                meta = {"id": str(i), "caption": None, "source": "", "licence": "", "split": split}
                writer.add(f"clip{i}", torch.full((4, 3, 1), float(i)), {}, meta)
        latents = {"shape": [2, 3, 1], "mean": [0.0, 0.0], "std": 1.0}
        shards = [describe_shard(tmp_path / split / "000000.tar")]
        ShardIndex({"name": "c", "identity": "0"}, None, latents, 0.12, shards).save(tmp_path / split)
    data = LatentDataModule(DataConfig(path=str(tmp_path), batch_size=2), seed=5)
    data.trainer = SimpleNamespace(
        global_step=0,
        max_steps=4,
        global_rank=0,
        world_size=1,
        accumulate_grad_batches=1,
        datamodule=data,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert [len(batch["keys"]) for batch in batches] == [2, 2, 2, 2]
    data.trainer.global_step = 3
    order = {"block_shards": 0, "seed": 5, "num_samples": 6}
    assert data.state_dict() == {"samples_consumed": 6, "step": 3, "global_batch_size": 2, **order}
    data.load_state_dict(data.state_dict())
    data.load_state_dict({"samples_consumed": 6, "step": 3})
    (resumed,) = list(data.train_dataloader())
    assert resumed["keys"] == batches[3]["keys"]
    assert torch.equal(resumed["moments"], batches[3]["moments"])
    assert [len(batch["keys"]) for batch in data.val_dataloader()] == [2, 1]


def test_another_order_is_refused_in_the_middle_of_a_training(shards):
    data = LatentDataModule(DataConfig(path=str(shards), block_shards=2), seed=5)
    state = {"samples_consumed": 6, "step": 3, "block_shards": 2, "seed": 5, "num_samples": 62}
    data.load_state_dict(state)
    del state["num_samples"]
    data.load_state_dict(state)  # of an earlier version
    for changed, message in (
        ({"seed": 4}, "seed=5, but this training began with 4: another order"),
        ({"num_samples": 60}, "clips in data.path=62, but this training began with 60: another order"),
        ({"seed": 4, "block_shards": 0}, "data.block_shards=2, but this training began with 0; seed=5, but"),
    ):
        with pytest.raises(ValueError, match=rf"^{re.escape(message)}.*set it back, or begin a new .*init_from="):
            data.load_state_dict(state | changed)


def test_missing_path_says_what_to_pass(tmp_path):
    with pytest.raises(ValueError, match=r"data\.path=FOLDER"):
        LatentDataModule(DataConfig())
    with pytest.raises(ValueError, match="impact precompute"):
        LatentDataModule(DataConfig(path=str(tmp_path)))


def test_a_path_is_enough_and_no_trainer_is_needed(shards, caplog):
    """In a notebook: one epoch, each clip at least once, and validation."""
    data = LatentDataModule(shards, batch_size=4)
    data.setup()
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == 16
    assert {key for batch in batches for key in batch["keys"]} == {f"clip{i}" for i in range(62)}
    assert sum(len(batch["keys"]) for batch in data.val_dataloader()) == 5
    assert not caplog.records


def test_a_set_without_checksums_says_so_once(shards, caplog):
    for split in ("train", "valid"):
        index = json.loads((shards / split / "index.json").read_text())
        for shard in index["shards"]:
            del shard["crc32"]
        (shards / split / "index.json").write_text(json.dumps(index))
    data = LatentDataModule(shards, batch_size=4)
    data.setup()
    next(iter(data.train_dataloader()))
    (record,) = caplog.records
    assert "made without checksums" in record.message


def test_replayed_clips_have_their_share_of_every_batch_and_their_own_order():
    own, replayed = SampleStream([10], 0), SampleStream([4], 0)
    stream = MixedStream(own, replayed, share=0.25)
    batches = list(SlotSampler(stream, 8, start=0, steps_done=0, max_steps=6))
    assert {sum(index >= 10 for index in batch) for batch in batches} == {2}
    assert [i for i in flat(batches) if i < 10] == [own[p] for p in range(36)]
    assert [i - 10 for i in flat(batches) if i >= 10] == [replayed[p] for p in range(12)]
    assert list(SlotSampler(stream, 8, start=24, steps_done=3, max_steps=6)) == batches[3:]
    assert flat(SlotSampler(MixedStream(own, replayed, 0.0), 5, 0, 0, 4)) == [own[p] for p in range(20)]


def test_replay_comes_from_shards_that_fit(tmp_path):
    write_latents(tmp_path / "own")
    write_split(tmp_path / "old", 3, seed=5)
    data = LatentDataModule(tmp_path / "own", batch_size=4, replay=str(tmp_path / "old"), replay_share=0.5)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    old = LatentDataset(tmp_path / "old")
    stored = [old[i]["moments"] for i in range(3)]
    assert sum(any(torch.equal(moments, each) for each in stored) for moments in batch["moments"]) == 2
    assert data.state_dict()["replay"] == 50
    with pytest.raises(ValueError, match=r"percent of data\.replay=50\.0, but this training began with 0"):
        data.load_state_dict({"samples_consumed": 0, "step": 0})
    with pytest.raises(ValueError, match=r"percent of data\.replay=0, but this training began with 50"):
        LatentDataModule(tmp_path / "own").load_state_dict(data.state_dict())
    write_split(tmp_path / "other", 3, seed=5, codec=CODEC | {"identity": "aaaa"})
    data = LatentDataModule(tmp_path / "own", replay=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"does not fit data.path=.*: codec aaaa, not 0123456789abcdef"):
        data.setup()
