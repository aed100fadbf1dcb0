"""AdamW, its parameter groups, and the schedule: linear warm-up, constant (as in MAR), and an optional final decay."""

import torch
from torch import nn

from impact_pl.config import OptimConfig


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
