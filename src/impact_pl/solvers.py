"""Reverse diffusion as a list of steps, each a linear update whose coefficients are known before anything is sampled.

Dimensions: K patches, P numbers a patch. Sources as in :mod:`impact_pl.diffusion`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from impact_pl.diffusion import Prediction, Schedule


@dataclass(frozen=True)
class Step:
    """x <- keep x + noise eps + std exp(slope v) z: predicted noise eps and variance v in [-1, 1], fresh noise z."""

    timestep: int  # of training, which the network is conditioned on
    keep: float
    noise: float
    std: float  # 0: nothing is drawn
    slope: float  # of log std in v


def ancestral_steps(schedule: Schedule, temperature: float = 1.0) -> list[Step]:
    """DDPM Algorithm 2 with learned variance, as :func:`impact_pl.diffusion.ancestral_sample`, noisiest step first."""
    table = {name: value.double().tolist() for name, value in vars(schedule).items()}
    steps = []
    for i in reversed(range(len(schedule))):
        x0 = table["posterior_mean_x0"][i]
        keep = x0 * table["sqrt_recip_alpha_bars"][i] + table["posterior_mean_noisy"][i]
        low, high = table["posterior_log_variance"][i], table["log_betas"][i]
        std = math.exp((low + high) / 4) * temperature if i else 0.0
        steps.append(
            Step(int(table["timesteps"][i]), keep, -x0 * table["sqrt_recip_minus_one"][i], std, (high - low) / 4)
        )
    return steps


SOLVERS: dict[str, Callable[[Schedule, float], list[Step]]] = {"ancestral": ancestral_steps}


def advance(step: Step, x: Tensor, prediction: Prediction, drawn: Tensor | None) -> Tensor:
    """The next x (K, P); ``drawn`` is standard normal (K, P), None in the last step."""
    x = (step.keep * x).add_(prediction.noise, alpha=step.noise)
    if drawn is None:
        return x
    return x.addcmul_(drawn, torch.exp(step.slope * prediction.variance), value=step.std)
