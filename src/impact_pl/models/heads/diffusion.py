"""The paper's diffusion head (MAR's MLP): denoises every position independently, given its hidden vector.

Dimension key: B clips, K positions, D width of hidden, P numbers per patch, V width of the head; ``...`` is (B, K) or
rows.
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impact_pl.config import ModelConfig
from impact_pl.errors import UserError
from impact_pl.models.heads.base import Head, Sampling, guided
from impact_pl.models.transformer import LAYER_NORM_EPS
from impact_pl.randomness import Generators, draw_normal, draw_normals
from impact_pl.sampling.diffusion import (
    Prediction,
    Schedule,
    add_noise,
    diffusion_loss,
    make_schedule,
    noise_of_velocity,
)
from impact_pl.sampling.solvers import SOLVERS, last, trajectory

NUM_FREQUENCIES = 256
MAX_PERIOD = 10_000
PREDICTIONS = ("noise", "velocity")

Denoiser = Callable[[Tensor, Tensor], Prediction]


def timestep_features(timesteps: Tensor) -> Tensor:
    """Embed timesteps (...) as cosines and sines (..., 256) at geometric frequencies (DDPM; cosines first)."""
    half = NUM_FREQUENCIES // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[..., None].float() * torch.exp(-math.log(MAX_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedding(nn.Sequential):
    """Embed timesteps with an MLP: (...) -> (..., V)."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(NUM_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: Tensor) -> Tensor:
        return super().forward(timestep_features(timesteps))


class AdaLNBlock(nn.Module):
    """Residual MLP with scale, shift and gate computed from the condition (adaLN)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Apply the block to x (..., V), given cond (..., V) after its SiLU."""
        shift, scale, gate = self.modulation(cond).chunk(3, dim=-1)
        h = self.norm(x) * (1 + scale) + shift
        return x + gate * self.fc2(F.silu(self.fc1(h)))


class AdaLNHead(Head):
    """Network and noise schedule shared by the heads that see a noisy patch and its timestep."""

    def __init__(self, config: ModelConfig, patch_dim: int) -> None:
        super().__init__()
        width = config.head_width
        self.patch_dim = patch_dim
        self.num_timesteps = config.num_timesteps
        if config.prediction not in PREDICTIONS:
            raise UserError(f"model.prediction = {config.prediction!r}: choose {', '.join(PREDICTIONS)}.")
        self.time_embed = TimestepEmbedding(width)
        self.cond_proj = nn.Linear(config.dim, width)
        self.input_proj = nn.Linear(patch_dim, width)
        self.blocks = nn.ModuleList(self.make_block(width) for _ in range(config.head_depth))
        self.final_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS, elementwise_affine=False)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final_proj = nn.Linear(width, 2 * patch_dim)
        self._schedules: dict[tuple[int, torch.device, float], Schedule] = {}

    def make_block(self, width: int) -> nn.Module:
        """Build one of ``blocks``: a module called with (x, cond), both (..., V)."""
        return AdaLNBlock(width)

    def schedule(self, num_steps: int, device: torch.device, min_alpha_bar: float = 0.0) -> Schedule:
        """Return :func:`make_schedule` on ``device``, cached to avoid a host-to-device copy per batch."""
        key = (num_steps, device, min_alpha_bar)
        if key not in self._schedules:
            self._schedules[key] = make_schedule(self.num_timesteps, num_steps, min_alpha_bar).to(device)
        return self._schedules[key]

    def network(self, x: Tensor, timesteps: Tensor, cond: Tensor) -> Tensor:
        """Run the MLP and return the output of ``final_proj`` in float32, (..., 2P) unless a subclass overrides it.

        Args:
            x: (..., V), projected noisy patch.
            timesteps: (...) or (1,).
            cond: (..., V), ``cond_proj(hidden)``.
        """
        cond = F.silu(self.time_embed(timesteps) + cond)
        for block in self.blocks:
            x = block(x, cond)
        shift, scale = self.final_modulation(cond).chunk(2, dim=-1)
        return self.final_proj(self.final_norm(x) * (1 + scale) + shift).float()

    def draw_timesteps(self, rows: int, count: int, generator: torch.Generator) -> Tensor:
        """Draw timesteps (rows, count) int64, one per position."""
        return torch.randint(self.num_timesteps, (rows, count), generator=generator, device=generator.device)

    def num_passes(self, num_diffusion_steps: int) -> int:
        return num_diffusion_steps


class DiffusionHead(AdaLNHead):
    """AdaLN MLP that predicts the noise in a patch and the variance of the reverse step (MAR Sec. 3.2, appendix).

    Note: With ``model.prediction=velocity`` the output is the velocity, and the noise is derived from it. MAR predicts
    the noise. Near the last timestep, where the content of a sound is decided, this divides the network's error in the
    clean patch by the square root of alpha_bar, which a short training cannot make up for.
    """

    takes_solver = True

    def __init__(self, config: ModelConfig, patch_dim: int) -> None:
        super().__init__(config, patch_dim)
        self.predicts_velocity = config.prediction == "velocity"

    def forward(self, noisy: Tensor, timesteps: Tensor, cond: Tensor) -> Prediction:
        """Predict from noisy (..., P) at timesteps (...) or (1,), given cond = ``cond_proj(hidden)`` (..., V)."""
        prediction = Prediction(*self.network(self.input_proj(noisy), timesteps, cond).chunk(2, dim=-1))
        if self.predicts_velocity:
            schedule = self.schedule(self.num_timesteps, noisy.device)
            return prediction._replace(noise=noise_of_velocity(schedule, noisy, timesteps, prediction.noise))
        return prediction

    def loss(
        self, hidden: Tensor, target: Tensor, generator: torch.Generator, batch_mul: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Compute losses and timesteps, each (B * batch_mul, K). Every position gets ``batch_mul`` timesteps (MAR)."""
        target = target.float().repeat(batch_mul, 1, 1)
        timesteps = self.draw_timesteps(len(target), target.shape[1], generator)
        noise = draw_normal(target.shape, generator, target.device)
        return self.loss_at(hidden, target, timesteps.to(target.device), noise)

    def loss_at(self, hidden: Tensor, target: Tensor, timesteps: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Compute :meth:`loss` for given timesteps (B * batch_mul, K), and noise and target (B * batch_mul, K, P)."""
        schedule = self.schedule(self.num_timesteps, target.device)
        noisy = add_noise(schedule, target, timesteps, noise)
        cond = self.cond_proj(hidden)
        cond = torch.cat([cond] * (len(target) // len(cond)))
        prediction = self(noisy, timesteps, cond)
        weight = 1 / schedule.alpha_bars[timesteps] if self.predicts_velocity else None  # velocity error
        return diffusion_loss(schedule, prediction, target, noisy, timesteps, noise, weight), timesteps

    def sample(self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators) -> Tensor:
        """Sample patches (B, K, P) with the solver of ``sampling``; for ``min_alpha_bar`` see :func:`make_schedule`."""
        return last(self.path(hidden, null_hidden, sampling, generator))

    def path(
        self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators
    ) -> Iterator[Tensor]:
        """Yield the S + 1 points (B, K, P) of a sampling path, from the initial noise to the sample."""
        here, there = (  # on the CPU too, because reading a GPU's numbers would wait for it
            self.schedule(sampling.num_diffusion_steps, device, sampling.min_alpha_bar)
            for device in (torch.device("cpu"), hidden.device)
        )
        steps, timesteps = SOLVERS[sampling.solver](here, temperature=sampling.temperature), there.timesteps.flip(0)
        denoise = self.denoiser(hidden, null_hidden, sampling.guidance_scale)
        shape = (*hidden.shape[:-1], self.patch_dim)
        noises = draw_normals(1 + sampling.num_noises, shape, generator, hidden.device)
        start = sampling.start_std * next(noises)
        yield start
        at_step = lambda x, step: denoise(x, timesteps[step : step + 1])  # noqa: E731
        yield from trajectory(at_step, steps, start, noises, sampling.max_rms)

    def denoiser(self, hidden: Tensor, null_hidden: Tensor | None, guidance_scale: float | Tensor) -> Denoiser:
        """The function of (noisy (..., P), timestep (1,)) that sampling iterates.

        Guidance applies to the noise; the variance is the conditional one, as in MAR. Also as in MAR, the terms that
        depend on the condition and timestep only are recomputed in every step for every row.
        ``inference.diffusion_loop`` avoids this.
        """
        both = hidden if null_hidden is None else torch.cat([hidden, null_hidden])  # (B or 2B, K, D)

        def denoise(noisy: Tensor, timestep: Tensor) -> Prediction:
            if null_hidden is None:
                return self(noisy, timestep.expand(noisy.shape[:-1]), self.cond_proj(hidden))
            noisy = torch.cat([noisy, noisy])
            prediction = self(noisy, timestep.expand(noisy.shape[:-1]), self.cond_proj(both))
            return Prediction(guided(prediction.noise, guidance_scale), prediction.variance[: len(hidden)])

        return denoise
