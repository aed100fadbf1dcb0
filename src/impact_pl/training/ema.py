"""Exponential moving average of the weights, a submodule that is saved, moved and sharded with the model."""

import copy
from typing import Any

import torch
from torch import nn

from impact_pl.errors import UserError


class ExponentialMovingAverage(nn.Module):
    """Keep an averaged copy in ``model``, to be used like the original, in evaluation mode.

    After optimizer step n (counted from 0) the decay is min(decay, (1 + n) / (10 + n)), so that short trainings do not
    include their initial weights. Buffers are copied, not averaged.

    Args:
        model: The model in training; its current weights start the average.
        decay: In [0, 1); 0.9999 in the paper.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__()
        if not 0 <= decay < 1:
            raise UserError(f"optim.ema_decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self.model: Any = copy.deepcopy(model).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "ExponentialMovingAverage":
        """Ignore the mode; the averaged model stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average with ``model`` after optimizer step ``step`` (the first is 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for averaged, current in zip(self.model.buffers(), model.buffers(), strict=True):
            averaged.copy_(current)

    @torch.no_grad()
    def reset(self, model: nn.Module) -> None:
        """Restart the average from the current weights of ``model``."""
        self.model.load_state_dict(model.state_dict())
