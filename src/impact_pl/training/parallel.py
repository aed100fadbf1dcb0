"""What is checkpointed, compiled and sharded in a model, and how gradients are clipped. The model knows none of it."""

import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from impact_pl.config import TrainerConfig
from impact_pl.models.impact import Impact


def prepare(model: Impact, averaged: Impact, config: TrainerConfig, mesh: DeviceMesh | None) -> None:
    """Fit the trained model and its average to ``trainer``, in place; names of parameters stay as they are.

    Args:
        model: the one that is trained; the only one that needs activation checkpointing and compilation.
        averaged: sharded in the same way, so that averaging needs no communication.
        config: of the trainer.
        mesh: processes to shard over, one dimension; None: every process keeps everything.
    """
    for block in transformer_blocks(model):
        if config.compile:
            # Not the whole encoder: its blocks are all alike, so that one compilation serves them all, and sharding
            # gathers weights between them. The number of kept patches changes from step to step.
            block.forward = torch.compile(block.forward, dynamic=True)
        if config.activation_checkpointing:
            # Autocast and the dropout's random state are restored for the second forward. Around the compiled block:
            # compiled itself (torch 2.13), it reads weights that FSDP2 has freed, as zeros and without a word.
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    if mesh is not None:
        shard(model, mesh)
        shard(averaged, mesh)


def transformer_blocks(model: Impact) -> Iterator[nn.Module]:
    yield from (*model.encoder.enc1.blocks, *model.encoder.enc2.blocks)


def sharded_blocks(model: Impact) -> Iterator[nn.Module]:
    """What FSDP2 gathers one by one."""
    yield from (*transformer_blocks(model), *model.head.blocks)


def shard(model: Impact, mesh: DeviceMesh) -> None:
    """FSDP2: every block's parameters are cut along their first dimension, and whole only while the block computes.

    What is not in a block (projections, positions, the head's ends) is gathered once a forward. It is freed after it,
    like the blocks: while nothing computes, ``parameters()`` are shards, which is what optimizer and average work on.

    Note:
        Weights are drawn whole in every process, so that they equal those of one process with the same seed. That
        takes 8 bytes a parameter (model and average) of host memory in each process before it shards.
    """
    for block in sharded_blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(model, "generate")


def clip_gradients(model: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float | None) -> float:
    """Clip by the global norm over all parameters and processes; returns it as it was before."""
    norm: Tensor = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm or math.inf)
    return float(norm)  # of a DTensor: over all shards
