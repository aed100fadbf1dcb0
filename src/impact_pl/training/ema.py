"""Exponential moving average of the weights, kept as a submodule: saved, moved and sharded together with the model."""

import copy
from typing import Any

import torch
from torch import nn

from impact_pl.errors import UserError


class ExponentialMovingAverage(nn.Module):
    """``model`` holds the averaged copy: use it like the original, in evaluation mode.

    With ``warmup``, the decay after optimizer step n (counted from 0) is min(decay, (1 + n) / (10 + n)), so that short
    trainings do not average in their initial weights. Buffers are copied, not averaged.

    Args:
        model: the model that is trained; its present weights start the average.
        decay: in [0, 1); 0.9999 in the paper.
        warmup: whether the average follows faster at first; MAR's does not.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True):
        super().__init__()
        if not 0 <= decay < 1:
            raise UserError(f"optim.ema_decay must lie in [0, 1), got {decay}")
        self.decay, self.warmup = decay, warmup
        self.model: Any = copy.deepcopy(model).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "ExponentialMovingAverage":
        """The averaged model stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards ``model`` after optimizer step ``step`` (the first is 0)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for averaged, current in zip(self.model.buffers(), model.buffers(), strict=True):
            averaged.copy_(current)

    @torch.no_grad()
    def reset(self, model: nn.Module) -> None:
        """Start again from ``model``'s present weights."""
        self.model.load_state_dict(model.state_dict())
