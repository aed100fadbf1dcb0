"""The steps of ancestral sampling in numpy: those of :mod:`impact_pl.sampling.diffusion` and ``solvers``."""

import math
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from impact_pl.errors import UserError

MAX_BETA = 0.999


class Step(NamedTuple):
    """One update: x_0 = x0_of_x x + x0_of_y y; x <- keep x + mean x_0 + std exp(slope v) z; see ``solvers.Step``."""

    timestep: int
    x0_of_x: float
    x0_of_y: float
    keep: float
    mean: float
    std: float
    slope: float


def usable_alpha_bars(num_timesteps: int, min_alpha_bar: float) -> np.ndarray:
    """Return alpha_bar of the first timesteps, those where it is at least ``min_alpha_bar`` (cosine, IDDPM Eq. 17)."""
    alpha_bar = np.cos((np.arange(num_timesteps + 1) / num_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], MAX_BETA)
    alpha_bars = np.cumprod(1 - betas)
    return alpha_bars[alpha_bars >= min_alpha_bar]


@lru_cache(maxsize=64)
def ancestral_steps(
    num_timesteps: int, num_steps: int, min_alpha_bar: float, predicts_velocity: bool, temperature: float
) -> list[Step]:
    """Compute the steps of DDPM Algorithm 2, noisiest first; coefficients are rounded to float32, as in PyTorch.

    Raises:
        UserError: There are fewer timesteps than steps.
    """
    alpha_bars = usable_alpha_bars(num_timesteps, min_alpha_bar)
    if not 1 <= num_steps <= len(alpha_bars):
        raise UserError(f"num_diffusion_steps = {num_steps}: choose 1 to {len(alpha_bars)}")
    stride = (len(alpha_bars) - 1) / max(1, num_steps - 1)
    kept = [round(place) for place in accumulate([0.0] + [stride] * (num_steps - 1))]
    kept = kept if num_steps > 1 else [len(alpha_bars) - 1]
    alpha_bars = alpha_bars[kept]
    previous = np.concatenate([[1.0], alpha_bars[:-1]])
    betas = 1 - alpha_bars / previous
    variance = betas * (1 - previous) / (1 - alpha_bars)
    variance[0] = variance[1] if num_steps > 1 else betas[0]  # the true one is 0 (IDDPM Sec. 3.1)
    if predicts_velocity:
        x0_of_x, x0_of_y = np.sqrt(alpha_bars), -np.sqrt(1 - alpha_bars)
    else:
        x0_of_x, x0_of_y = np.sqrt(1 / alpha_bars), -np.sqrt(1 / alpha_bars - 1)
    of_noisy = (1 - previous) * np.sqrt(1 - betas) / (1 - alpha_bars)
    of_x0 = betas * np.sqrt(previous) / (1 - alpha_bars)
    columns = [x0_of_x, x0_of_y, of_noisy, of_x0, np.log(variance), np.log(betas)]
    rows = np.stack(columns, axis=1).astype(np.float32).astype(np.float64)
    steps = []
    for i in reversed(range(num_steps)):
        of_x, of_y, keep, mean, low, high = rows[i].tolist()
        std = math.exp((low + high) / 4) * temperature if i else 0.0
        steps.append(Step(kept[i], of_x, of_y, keep, mean, std, (high - low) / 4))
    return steps
