"""Ancestral sampling as DDPM writes it down, step by step: the reference that the solvers are checked against."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from impact_pl.sampling.diffusion import Prediction, Schedule, reverse_step


def ancestral_sample(
    denoise: Callable[[Tensor, Tensor], Prediction],
    schedule: Schedule,
    start: Tensor,
    noises: Iterable[Tensor],
    temperature: float = 1.0,
) -> Tensor:
    """DDPM Algorithm 2 with learned variance: from ``start`` = x_T to a sample, (K, P).

    Args:
        denoise: of (noisy (K, P), training timestep (1,)).
        start: x_T, standard normal (K, P).
        noises: standard normal (K, P) for every step but the last, which adds none.
        temperature: factor of the added noise (MAR Sec. 3.2; ``start`` is not scaled).
    """
    x, noises = start, iter(noises)
    for i in reversed(range(len(schedule))):
        step = torch.tensor([i], device=x.device)
        mean, log_variance = reverse_step(schedule, x, step, denoise(x, schedule.timesteps[step]))
        x = mean if i == 0 else mean + torch.exp(0.5 * log_variance) * next(noises) * temperature
    return x
