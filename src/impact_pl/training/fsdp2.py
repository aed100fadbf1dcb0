"""FSDP2 under Lightning: sharded checkpoints that are plain tensors, and restored like any other."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from impact_pl.training.checkpoint_files import StoredCheckpoint, map_tensors, shard_rows, write_shards


class FSDP2Strategy(ModelParallelStrategy):
    """Data parallelism over all processes, with parameters, gradients, average and optimizer state sharded.

    What is sharded stands in :mod:`impact_pl.training.parallel`. Lightning's own class reads and writes by
    torch.distributed.checkpoint, which pickles; here a checkpoint goes through the same hooks as under the other
    strategies, with DTensors in it, and :mod:`impact_pl.training.checkpoint_files` writes and reads their shards.

    Args:
        num_processes: over all nodes.
    """

    def __init__(self, num_processes: int):
        super().__init__(data_parallel_size=num_processes, tensor_parallel_size=1)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return optimizer.state_dict()

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        write_shards(checkpoint, Path(filepath), self.global_rank, self.world_size)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        assert self.lightning_module is not None
        stored = StoredCheckpoint(Path(checkpoint_path))
        mesh = self.device_mesh["data_parallel"]
        own = self.lightning_module.state_dict()
        sharded = {f"state_dict/{name}" for name, weight in own.items() if isinstance(weight, DTensor)}  # no teacher

        def place(name: str, tensor: Tensor) -> Tensor:
            if tensor.ndim == 0 or not (name in sharded or name.startswith("optimizer_states/")):
                return stored.whole(name, tensor).clone()
            start, stop = shard_rows(len(tensor), self.global_rank, self.world_size)
            rows = stored.rows(name, tensor, start, stop).to(self.root_device, copy=True)
            return DTensor.from_local(
                rows, mesh, [Shard(0)], run_check=False, shape=tensor.shape, stride=tensor.stride()
            )

        return map_tensors(stored.content, place)
