"""Gaussian diffusion of patches: cosine schedule, respacing, training losses.

Timesteps run from 0 (almost clean) to T - 1 (noise).

Dimension key: K patches, P numbers per patch, T diffusion timesteps. K stands for one or more dimensions: patches may
be rows (K, P), or (B, K, P) with steps (B, K). Sources: DDPM = Ho et al., arXiv 2006.11239; IDDPM = Nichol and
Dhariwal, arXiv 2102.09672; MAR = Li et al., arXiv 2406.11838, whose head is trained and sampled in exactly this way.
"""

import math
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from impact_pl.errors import UserError

MAX_BETA = 0.999


@dataclass(frozen=True)
class Schedule:
    """Coefficients of a diffusion over S of the T training timesteps, each (S,) float32, computed in float64.

    ``timesteps`` maps every step to its training timestep, which the network is conditioned on.
    """

    timesteps: Tensor  # int64
    alpha_bars: Tensor
    sqrt_alpha_bars: Tensor  # forward process, DDPM Eq. 4
    sqrt_one_minus_alpha_bars: Tensor
    sqrt_recip_alpha_bars: Tensor  # x0 from noise, DDPM Eq. 15
    sqrt_recip_minus_one: Tensor
    posterior_mean_x0: Tensor  # posterior, DDPM Eq. 7
    posterior_mean_noisy: Tensor
    posterior_log_variance: Tensor  # first entry repeats the second: the true variance there is 0 (IDDPM Sec. 3.1)
    log_betas: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    def to(self, device: torch.device | str) -> "Schedule":
        """Move the schedule to ``device``."""
        return Schedule(*(getattr(self, field.name).to(device) for field in fields(self)))


def cosine_betas(num_timesteps: int) -> Tensor:
    """Compute betas (T,) float64 with alpha_bar(t) = cos^2((t + 0.008) / 1.008 pi/2) (cosine, IDDPM Eq. 17)."""
    t = torch.arange(num_timesteps + 1, dtype=torch.float64, device="cpu") / num_timesteps
    alpha_bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=MAX_BETA)


def respaced_timesteps(num_timesteps: int, num_steps: int) -> list[int]:
    """Select ``num_steps`` evenly spaced training timesteps, including the first and the last (IDDPM Sec. 4).

    Note: A single step is the last timestep, where there is noise to remove. The reference takes the first one and
    fails.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise UserError(f"num_diffusion_steps = {num_steps}: choose 1 to {num_timesteps}, the number of timesteps.")
    if num_steps == 1:
        return [num_timesteps - 1]
    stride = (num_timesteps - 1) / (num_steps - 1)
    # Accumulate as the reference does instead of multiplying, so that halves round to the same side.
    return [round(position) for position in accumulate([0.0] + [stride] * (num_steps - 1))]


def usable_alpha_bars(num_timesteps: int, min_alpha_bar: float) -> Tensor:
    """Return alpha_bar (float64) of the first timesteps, those where it is at least ``min_alpha_bar``."""
    alpha_bars = torch.cumprod(1 - cosine_betas(num_timesteps), dim=0)  # (T,), decreasing
    return alpha_bars[alpha_bars >= min_alpha_bar]


def make_schedule(num_timesteps: int = 1000, num_steps: int | None = None, min_alpha_bar: float = 0.0) -> Schedule:
    """Build a cosine schedule over ``num_steps`` of ``num_timesteps`` (None: all) that keeps alpha_bar (IDDPM Eq. 19).

    ``min_alpha_bar`` removes the last timesteps, those with a smaller alpha_bar. At the very last timestep alpha_bar is
    2e-9, a thousandth of its neighbour's, so the first of 100 steps multiplies the network's error by 350. A network
    that is not accurate to a few parts in a thousand there never recovers. From 1e-3 on (timestep 978) no step does
    this, and starting from pure noise loses 3 % of the signal's amplitude. MAR uses 0.
    """
    alpha_bars = usable_alpha_bars(num_timesteps, min_alpha_bar)
    num_usable = len(alpha_bars)
    kept = torch.tensor(respaced_timesteps(num_usable, num_usable if num_steps is None else num_steps), device="cpu")
    alpha_bars = alpha_bars[kept]  # (S,)
    previous = torch.cat([alpha_bars.new_ones(1), alpha_bars[:-1]])
    betas = 1 - alpha_bars / previous
    variance = betas * (1 - previous) / (1 - alpha_bars)
    # A single step has no second variance to repeat. It adds no noise either, so beta serves as a placeholder.
    variance[0] = variance[1] if len(variance) > 1 else betas[0]
    coefficients = {
        "alpha_bars": alpha_bars,
        "sqrt_alpha_bars": alpha_bars.sqrt(),
        "sqrt_one_minus_alpha_bars": (1 - alpha_bars).sqrt(),
        "sqrt_recip_alpha_bars": (1 / alpha_bars).sqrt(),
        "sqrt_recip_minus_one": (1 / alpha_bars - 1).sqrt(),
        "posterior_mean_x0": betas * previous.sqrt() / (1 - alpha_bars),
        "posterior_mean_noisy": (1 - previous) * (1 - betas).sqrt() / (1 - alpha_bars),
        "posterior_log_variance": variance.log(),
        "log_betas": betas.log(),
    }
    return Schedule(timesteps=kept, **{name: value.float() for name, value in coefficients.items()})


class Prediction(NamedTuple):
    """Denoiser output: ``noise`` (K, P), and ``variance`` (K, P), in [-1, 1] when in range."""

    noise: Tensor
    variance: Tensor


def add_noise(schedule: Schedule, x0: Tensor, step: Tensor, noise: Tensor) -> Tensor:
    """Sample from the forward process q(x_t | x_0) at steps (K,): noisy patches (K, P) (DDPM Eq. 4)."""
    return schedule.sqrt_alpha_bars[step, None] * x0 + schedule.sqrt_one_minus_alpha_bars[step, None] * noise


def noise_of_velocity(schedule: Schedule, noisy: Tensor, step: Tensor, velocity: Tensor) -> Tensor:
    """Convert a velocity v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0 to noise (arXiv 2202.00512, App. D).

    The error of the noise is that of the velocity times sqrt(alpha_bar), the error of x_0 that times sqrt(1 -
    alpha_bar), so both are bounded.
    """
    return schedule.sqrt_one_minus_alpha_bars[step, None] * noisy + schedule.sqrt_alpha_bars[step, None] * velocity


def posterior_mean(schedule: Schedule, x0: Tensor, noisy: Tensor, step: Tensor) -> Tensor:
    """Compute the mean of q(x_{t-1} | x_t, x_0) (DDPM Eq. 7)."""
    return schedule.posterior_mean_x0[step, None] * x0 + schedule.posterior_mean_noisy[step, None] * noisy


def reverse_step(schedule: Schedule, noisy: Tensor, step: Tensor, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """Compute mean (DDPM Eq. 11) and log variance (IDDPM Eq. 15) of p(x_{t-1} | x_t), each (K, P)."""
    x0 = schedule.sqrt_recip_alpha_bars[step, None] * noisy
    x0 = x0 - schedule.sqrt_recip_minus_one[step, None] * prediction.noise
    share = (prediction.variance + 1) / 2
    log_variance = share * schedule.log_betas[step, None] + (1 - share) * schedule.posterior_log_variance[step, None]
    return posterior_mean(schedule, x0, noisy, step), log_variance


def diffusion_loss(
    schedule: Schedule,
    prediction: Prediction,
    x0: Tensor,
    noisy: Tensor,
    step: Tensor,
    noise: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """Compute the loss (K,): mean squared noise error plus variational bound in bits per number (IDDPM Eq. 16).

    ``weight`` (K,) applies to the noise error. The bound sees the predicted mean detached, so it only trains the
    variance. As in MAR, its weight is 1.
    """
    error = (noise - prediction.noise).square().mean(dim=-1)
    error = error if weight is None else weight * error
    return error + variational_bound(schedule, prediction._replace(noise=prediction.noise.detach()), x0, noisy, step)


def variational_bound(schedule: Schedule, prediction: Prediction, x0: Tensor, noisy: Tensor, step: Tensor) -> Tensor:
    """Compute KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) in bits per row (DDPM Eq. 5); at step 0, the likelihood."""
    mean, log_variance = reverse_step(schedule, noisy, step, prediction)
    true_mean = posterior_mean(schedule, x0, noisy, step)
    true_log_variance = schedule.posterior_log_variance[step, None]
    kl = 0.5 * (
        log_variance
        - true_log_variance
        - 1
        + torch.exp(true_log_variance - log_variance)
        + (true_mean - mean).square() * torch.exp(-log_variance)
    )
    nll = -log_likelihood_of_bin(x0, mean, 0.5 * log_variance)
    return torch.where(step == 0, nll.mean(dim=-1), kl.mean(dim=-1)) / math.log(2)


def log_likelihood_of_bin(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Compute log P of the bin of half-width 1/255 around ``x``, with open outermost bins (DDPM Eq. 13).

    Note: Latents are not 8-bit images. The bins are kept because MAR trains with them. The normal CDF uses the usual
    tanh approximation, as in MAR.
    """
    scale = torch.exp(-log_std)
    upper = _normal_cdf((x - mean + 1 / 255) * scale)
    lower = _normal_cdf((x - mean - 1 / 255) * scale)
    inside = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return inside.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
