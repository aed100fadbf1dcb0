"""Latent shards for Lightning: deterministic order, equal numbers of batches on all ranks, exact resume mid-epoch."""

import signal
from pathlib import Path

import torch
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from impact_pl.config import DataConfig
from impact_pl.data.order import SampleStream, SlotSampler, ValidationSampler
from impact_pl.data.shards import LatentDataset, ShardIndex, collate


class LatentDataModule(LightningDataModule):
    """Reads ``path/train`` and ``path/valid``; its state in a checkpoint is the number of samples consumed.

    Note:
        Lightning must see a loader that has a length and no ``state_dict``, and must not replace its sampler
        (``use_distributed_sampler=False``): then its own count of batches and this class's position agree.

    Args:
        config: where the shards lie and how they are batched.
        seed: of the order.

    Raises:
        ValueError: no shards at the path.
    """

    trainer: Trainer

    def __init__(self, config: DataConfig, seed: int = 0):
        super().__init__()
        if not config.path:
            raise ValueError("data.path is empty: pass data.path=FOLDER, the `out` folder of impact-precompute")
        self.config, self.seed = config, seed
        self.index = ShardIndex.load(Path(config.path) / "train")
        self._consumed_at_resume = 0
        self._step_at_resume = 0

    def setup(self, stage: str) -> None:
        self.train_set = LatentDataset(Path(self.config.path) / "train")
        valid = Path(self.config.path) / "valid"
        self.valid_set = LatentDataset(valid) if (valid / "index.json").is_file() else None

    @property
    def samples_consumed(self) -> int:
        """Training samples that the optimizer steps so far have used, over all ranks."""
        return self._consumed_at_resume + (self.trainer.global_step - self._step_at_resume) * self.global_batch_size

    @property
    def global_batch_size(self) -> int:
        """Clips an optimizer step."""
        return self.config.batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches

    @property
    def num_valid_batches(self) -> int:
        """Validation batches over all ranks, each once."""
        return -(-len(self.valid_set) // self.config.batch_size) if self.valid_set is not None else 0

    def state_dict(self) -> dict[str, int]:
        return {"samples_consumed": self.samples_consumed, "step": self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._consumed_at_resume = state_dict["samples_consumed"]
        self._step_at_resume = state_dict["step"]

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        sampler = SlotSampler(
            SampleStream(len(self.train_set), self.seed),
            self.config.batch_size,
            start=self.samples_consumed,
            steps_done=trainer.global_step,
            max_steps=trainer.max_steps,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            accumulate=trainer.accumulate_grad_batches,
        )
        return self._loader(self.train_set, sampler)

    def val_dataloader(self) -> DataLoader | list:
        if self.valid_set is None or len(self.valid_set) == 0:
            return []
        trainer = self.trainer
        sampler = ValidationSampler(
            len(self.valid_set), self.config.batch_size, trainer.global_rank, trainer.world_size
        )
        return self._loader(self.valid_set, sampler)

    def _loader(self, dataset: LatentDataset, sampler: SlotSampler | ValidationSampler) -> DataLoader:
        workers = self.config.num_workers
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_ignore_signals if workers > 0 else None,
            persistent_workers=workers > 0,
            generator=torch.Generator().manual_seed(0),  # or making an iterator would draw from the global state
        )


def _ignore_signals(worker: int) -> None:
    """Ctrl-C and a scheduler's signals reach the whole process group; only the training process answers them."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
