"""Reverse diffusion as a list of steps, each a linear update whose coefficients are known before anything is sampled.

Dimensions: K patches, P numbers a patch. Sources as in :mod:`impact_pl.diffusion`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from impact_pl.diffusion import Schedule


@dataclass(frozen=True)
class Step:
    """x <- keep x + gain y + std exp(slope v) z, for the network's outputs y and v in [-1, 1] and fresh noise z."""

    timestep: int  # of training, which the network is conditioned on
    keep: float
    gain: float
    std: float  # 0: nothing is drawn
    slope: float  # of log std in v


def ancestral_steps(schedule: Schedule, predicts_velocity: bool = False, temperature: float = 1.0) -> list[Step]:
    """DDPM Algorithm 2 with learned variance, as :func:`impact_pl.diffusion.ancestral_sample`, noisiest step first."""
    table = {name: value.double().tolist() for name, value in vars(schedule).items()}
    steps = []
    for i in reversed(range(len(schedule))):
        at = {name: values[i] for name, values in table.items()}
        if predicts_velocity:  # x_0 = x0_of_x x + x0_of_y y
            x0_of_x, x0_of_y = at["sqrt_alpha_bars"], -at["sqrt_one_minus_alpha_bars"]
        else:
            x0_of_x, x0_of_y = at["sqrt_recip_alpha_bars"], -at["sqrt_recip_minus_one"]
        mean = at["posterior_mean_x0"]
        low, high = at["posterior_log_variance"], at["log_betas"]
        std = math.exp((low + high) / 4) * temperature if i else 0.0
        keep = at["posterior_mean_noisy"] + mean * x0_of_x
        steps.append(Step(int(at["timesteps"]), keep, mean * x0_of_y, std, (high - low) / 4))
    return steps


SOLVERS: dict[str, Callable[[Schedule, bool, float], list[Step]]] = {"ancestral": ancestral_steps}


def advance(step: Step, x: Tensor, output: Tensor, variance: Tensor, drawn: Tensor | None) -> Tensor:
    """The next x (K, P); ``drawn`` is standard normal (K, P), None in the last step."""
    x = (step.keep * x).add_(output, alpha=step.gain)
    if drawn is None:
        return x
    return x.addcmul_(drawn, torch.exp(step.slope * variance), value=step.std)
