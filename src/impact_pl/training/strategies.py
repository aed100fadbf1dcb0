"""Precision and strategies by name, and how they transform the model, which is unaware of them.

This covers activation checkpointing, compilation, sharding, gradient clipping, and FSDP2 checkpoints of plain tensors.
"""

import functools
import importlib.util
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard
from torch.utils.checkpoint import checkpoint

from impact_pl.config import TrainerConfig
from impact_pl.errors import UserError
from impact_pl.models.impact import Impact
from impact_pl.precision import cpu_computes_bf16
from impact_pl.training.checkpoint_files import StoredCheckpoint, map_tensors, shard_rows, write_shards
from impact_pl.training.deepspeed import ZeroStrategy, clip_in_engine


class FSDP2Strategy(ModelParallelStrategy):
    """Data parallelism over all processes, with parameters, gradients, average and optimizer state sharded.

    :mod:`impact_pl.training.strategies` decides what is sharded. Lightning's own class uses
    torch.distributed.checkpoint, which pickles. Here a checkpoint passes through the same hooks as in the other
    strategies, with DTensors in it, and :mod:`impact_pl.training.checkpoint_files` writes and reads their shards.

    Args:
        num_processes: Number of processes over all nodes.
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


def prepare(model: Impact, averaged: Impact, config: TrainerConfig, mesh: DeviceMesh | None) -> None:
    """Prepare the model and its average for ``trainer``, in place. Parameter names do not change.

    Args:
        model: The model in training, the only one that needs activation checkpointing and compilation.
        averaged: The average, sharded in the same way, so that averaging needs no communication.
        config: Trainer configuration.
        mesh: One-dimensional mesh of processes to shard over; None: no sharding.
    """
    for block in transformer_blocks(model):
        if config.compile:
            # Compile block by block rather than the whole encoder: all blocks are alike, so one compilation serves them
            # all, sharding gathers weights between them, and the number of visible patches changes in every step.
            block.forward = torch.compile(block.forward, dynamic=True)
        if config.activation_checkpointing:
            # Autocast and the dropout's random state are restored for the second forward. Checkpointing wraps the
            # compiled block, because compiling it as well (torch 2.13) silently reads weights that FSDP2 has freed as
            # zeros.
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    if mesh is not None:
        shard(model, mesh)
        shard(averaged, mesh)


def transformer_blocks(model: Impact) -> Iterator[nn.Module]:
    yield from (*model.encoder.enc1.blocks, *model.encoder.enc2.blocks)


def sharded_blocks(model: Impact) -> Iterator[nn.Module]:
    """List the modules that FSDP2 gathers one by one."""
    yield from (*transformer_blocks(model), *model.head.blocks)


def shard(model: Impact, mesh: DeviceMesh) -> None:
    """Shard with FSDP2: every block's parameters are split along their first dimension, and gathered while it computes.

    Parameters outside blocks (projections, positions, the head's input and output) are gathered once per forward and
    freed afterwards, like the blocks. In between, ``parameters()`` are shards, on which optimizer and average operate.

    Note:
        Weights are initialised completely in every process, so that they equal those of one process with the same seed.
        This takes 8 bytes of host memory per parameter (model and average) in each process before sharding.
    """
    for block in sharded_blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(model, "within_forward")


def clip_gradients(model: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float | None) -> float:
    """Clip by the global norm over all parameters and processes, and return the norm before clipping."""
    norm: Tensor = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm or math.inf)
    return float(norm)  # a DTensor's norm covers all shards


ACCELERATORS = ("auto", "cpu", "gpu")
PRECISIONS = ("auto", "32-true", "bf16-mixed")


def check_devices(config: TrainerConfig) -> None:
    """Check that the devices and the strategy in ``trainer`` are available.

    Raises:
        UserError: The accelerator or strategy is unknown, a package is missing, or there are fewer GPUs than
            ``trainer.devices``.
    """
    if config.strategy not in STRATEGIES:
        raise UserError(f"trainer.strategy={config.strategy}: choose one of {', '.join(STRATEGIES)}")
    if config.strategy == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "trainer.strategy=deepspeed needs the package deepspeed: pip install 'impact-pl[deepspeed]', or choose "
            "trainer=fsdp2"
        )
    if config.accelerator not in ACCELERATORS:
        raise UserError(f"trainer.accelerator={config.accelerator}: choose one of {', '.join(ACCELERATORS)}")
    gpus = torch.cuda.device_count() or int(torch.backends.mps.is_available())
    if config.accelerator == "gpu" and gpus == 0:
        raise UserError("trainer.accelerator=gpu: no GPU is visible here; choose trainer=cpu")
    on_gpus = config.accelerator == "gpu" or (config.accelerator == "auto" and gpus > 0)
    if on_gpus and config.devices > gpus:
        raise UserError(f"trainer.devices={config.devices}: {gpus} GPU(s) visible here; choose at most {gpus}")


def resolve_precision(config: TrainerConfig) -> str:
    """Resolve ``auto`` to bf16-mixed if bf16 is native, else 32-true. fp16 gives NaN and is not offered.

    Raises:
        UserError: The name is unknown.
    """
    if config.precision not in PRECISIONS:
        raise UserError(f"trainer.precision={config.precision}: choose one of {', '.join(PRECISIONS)}")
    if config.precision != "auto":
        return config.precision
    return "bf16-mixed" if _computes_bf16(config.accelerator) else "32-true"


def _computes_bf16(accelerator: str) -> bool:
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return accelerator in ("auto", "cpu") and cpu_computes_bf16()


def _auto(config: TrainerConfig) -> str | Strategy:
    return _ddp(config) if config.devices * config.num_nodes > 1 else "auto"


def _ddp(config: TrainerConfig) -> Strategy:
    return DDPStrategy(gradient_as_bucket_view=True)


def _fsdp2(config: TrainerConfig) -> Strategy:
    return FSDP2Strategy(config.devices * config.num_nodes)


def _deepspeed(config: TrainerConfig) -> Strategy:
    return ZeroStrategy(config.zero_stage, resolve_precision(config))


STRATEGIES: dict[str, Callable[[TrainerConfig], str | Strategy]] = {
    "auto": _auto,
    "ddp": _ddp,
    "fsdp2": _fsdp2,
    "deepspeed": _deepspeed,
}
CLIPPING = {"deepspeed": clip_in_engine}  # (model, optimizer, max_norm) -> norm; others: clip_gradients


def build_strategy(config: TrainerConfig) -> str | Strategy:
    """Return Lightning's ``strategy`` argument for ``trainer.strategy``, which :func:`check_devices` has checked."""
    return STRATEGIES[config.strategy](config)


def clipping(config: TrainerConfig) -> Callable[..., float]:
    """Return the function that clips gradients under ``trainer.strategy``: (model, optimizer, max_norm) -> norm."""
    return CLIPPING.get(config.strategy, clip_gradients)
