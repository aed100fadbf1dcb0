"""AdamW and its parameter groups, the learning rate's schedule, and the exponential moving average of the weights."""

import copy
from typing import Any

import torch
from torch import nn

from impact_pl.config import OptimConfig
from impact_pl.errors import UserError


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Group parameters as MAR: weight decay on all except biases, norms (1-d parameters) and the diffusion head.

    The last group is the one without decay. It is the only group if only the head is trained (stage distill).
    """
    decayed: list[tuple[str, nn.Parameter]] = []  # with names, which the optimizer keeps with its state
    plain: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = parameter.ndim <= 1 or name.endswith(".bias") or name.startswith("head.")
        (plain if exempt else decayed).append((name, parameter))
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return groups if decayed else groups[1:]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Create AdamW over the trainable parameters of ``model``, fused (torch has fused kernels for CPU and CUDA)."""
    device = next(model.parameters()).device.type
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.lr,
        betas=(config.betas[0], config.betas[1]),
        fused=device in ("cpu", "cuda"),
    )


def warmup(step: int, warmup_steps: int) -> float:
    """Compute the learning rate factor in step n (from 0): min(1, (n + 1) / warmup_steps)."""
    return min(1.0, (step + 1) / max(1, warmup_steps))


def decay(step: int, decay_steps: int, max_steps: int) -> float:
    """Compute the learning rate factor in step n: linear over the last ``decay_steps``, reaching 0 after the last."""
    return min(1.0, max(0, max_steps - step) / decay_steps) if decay_steps else 1.0


def learning_rate_factor(step: int, config: OptimConfig, max_steps: int) -> float:
    """Compute the learning rate factor: linear warm-up, constant, then the decay, if any."""
    return warmup(step, config.warmup_steps) * decay(step, config.decay_steps, max_steps)


def build_schedule(
    optimizer: torch.optim.Optimizer, config: OptimConfig, max_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Create a PyTorch scheduler from :func:`learning_rate_factor`."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config, max_steps))


def set_hyperparameters(checkpoint: dict, config: OptimConfig, max_steps: int) -> None:
    """Override learning rate, betas and decay stored in a checkpoint by the current configuration (in place)."""
    for state in checkpoint["optimizer_states"]:
        groups = state["param_groups"]
        for group, decay in zip(groups, (config.weight_decay, 0.0)[-len(groups) :], strict=True):
            group.update(initial_lr=config.lr, betas=tuple(config.betas), weight_decay=decay)
    for schedule in checkpoint["lr_schedulers"]:
        schedule["base_lrs"] = [config.lr] * len(schedule["base_lrs"])
        lr = config.lr * learning_rate_factor(schedule["last_epoch"], config, max_steps)
        schedule["_last_lr"] = [lr] * len(schedule["base_lrs"])
        for state in checkpoint["optimizer_states"]:
            for group in state["param_groups"]:
                group["lr"] = lr


class ExponentialMovingAverage(nn.Module):
    """``model`` holds the averaged copy: use it like the original, in evaluation mode.

    With ``warmup``, the decay after optimizer step n (counted from 0) is min(decay, (1 + n) / (10 + n)), so that short
    runs do not average in their initial weights. Buffers are copied, not averaged.

    Args:
        model: The trained model; the EMA starts from its current weights.
        decay: Decay in [0, 1); 0.9999 in the paper.
        warmup: Ramp up the decay from 0.1 (MAR does not).
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True):
        super().__init__()
        if not 0 <= decay < 1:
            raise UserError(f"optim.ema_decay must lie in [0, 1), got {decay}")
        self.decay, self.warmup = decay, warmup
        self.model: Any = copy.deepcopy(model).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "ExponentialMovingAverage":
        """Keep the averaged model in evaluation mode, whatever ``mode`` is."""
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
        """Restart the average from ``model``'s current weights."""
        self.model.load_state_dict(model.state_dict())
