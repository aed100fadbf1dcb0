"""Reverse diffusion as a list of steps, each a linear update with coefficients computed before sampling.

Dimension key: K patches, P numbers per patch, S steps. Sources as in :mod:`impact_pl.sampling.diffusion`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest

import torch
from torch import Tensor

from impact_pl.sampling.diffusion import Schedule


@dataclass(frozen=True)
class Step:
    """Update from x_t to x_{t-1}, given the network outputs y (noise or velocity) and v (variance, in [-1, 1]).

    x_0 = x0_of_x x + x0_of_y y; x <- keep x + mean x_0 + std exp(slope v) z, where z is fresh noise.
    """

    x0_of_x: float
    x0_of_y: float
    keep: float
    mean: float
    std: float  # 0: no noise is added
    slope: float  # d log std / d v


def ancestral(schedule: Schedule, predicts_velocity: bool = False, temperature: float = 1.0) -> list[Step]:
    """Build the steps of DDPM Algorithm 2 with learned variance (IDDPM Eq. 15), noisiest step first.

    ``temperature`` scales the added noise; x_T is not scaled (MAR Sec. 3.2).
    """
    table = {name: value.double().tolist() for name, value in vars(schedule).items()}
    steps = []
    for i in reversed(range(len(schedule))):
        at = {name: values[i] for name, values in table.items()}
        if predicts_velocity:
            x0_of_x, x0_of_y = at["sqrt_alpha_bars"], -at["sqrt_one_minus_alpha_bars"]
        else:
            x0_of_x, x0_of_y = at["sqrt_recip_alpha_bars"], -at["sqrt_recip_minus_one"]
        low, high = at["posterior_log_variance"], at["log_betas"]
        std = math.exp((low + high) / 4) * temperature if i else 0.0
        keep, mean = at["posterior_mean_noisy"], at["posterior_mean_x0"]
        steps.append(Step(x0_of_x, x0_of_y, keep, mean, std, slope=(high - low) / 4))
    return steps


def ddim(schedule: Schedule, predicts_velocity: bool = False, temperature: float = 1.0) -> list[Step]:
    """Build the steps of deterministic DDIM (arXiv 2010.02502, Eq. 12 with sigma 0): the sample depends on x_T only.

    ``temperature`` has no effect here; it scales x_T (:attr:`impact_pl.models.heads.base.Sampling.start_std`).
    """
    steps = ancestral(schedule, predicts_velocity)
    alpha_bars = [*schedule.alpha_bars.double().flip(0).tolist(), 1.0]
    silent = []
    for step, (now, then) in zip(steps, pairwise(alpha_bars), strict=True):
        keep = math.sqrt((1 - then) / (1 - now))
        silent.append(replace(step, keep=keep, mean=math.sqrt(then) - keep * math.sqrt(now), std=0.0, slope=0.0))
    return silent


SOLVERS: dict[str, Callable[..., list[Step]]] = {"ancestral": ancestral, "ddim": ddim}


def solve(
    denoise: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    steps: list[Step],
    start: Tensor,
    noise: Iterable[Tensor],
    max_rms: float = 0.0,
) -> Tensor:
    """Run the steps from ``start`` = x_T to a sample (K, P), the last point of :func:`trajectory`."""
    return last(trajectory(denoise, steps, start, noise, max_rms))


def last(points: Iterable[Tensor]) -> Tensor:
    """Return the last point of a path, keeping only one point in memory."""
    for point in points:
        end = point
    return end


def trajectory(
    denoise: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    steps: list[Step],
    start: Tensor,
    noise: Iterable[Tensor],
    max_rms: float = 0.0,
) -> Iterator[Tensor]:
    """Yield the result (K, P) of every step.

    Args:
        denoise: (x (K, P), index of the step) -> outputs y and v, each (K, P).
        steps: Steps from :func:`ancestral` or :func:`ddim`.
        start: Standard normal (K, P), scaled by the temperature if no noise follows.
        noise: Standard normal (K, P) for every step that adds noise: all but the last, or none.
        max_rms: Patches of x_0 with a larger root mean square are scaled down to it in every step, as guidance would
            otherwise drive them out of the range of the data (compare the dynamic thresholding of arXiv 2205.11487,
            Sec. 2.3); 0: never.
    """
    x = start
    for i, (step, drawn) in enumerate(zip_longest(steps, noise)):
        output, variance = denoise(x, i)
        x0 = (step.x0_of_x * x).add_(output, alpha=step.x0_of_y)
        if max_rms:
            x0 = x0 * (max_rms / x0.square().mean(dim=-1, keepdim=True).sqrt()).clamp(max=1)
        x = (step.keep * x).add_(x0, alpha=step.mean)
        if drawn is not None:
            x.addcmul_(drawn, torch.exp(step.slope * variance), value=step.std)
        yield x
