"""The diffusion head's sampling, with everything out of the loop that does not depend on the noisy patch.

Dimensions: G = 2 with guidance (condition, null condition), else 1; R = B K positions; V width of the head; P numbers a
patch; S diffusion steps; M = 3 modulations a block and 2 at the end.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impact_pl.diffusion import draw_normal
from impact_pl.models.heads.base import Sampling
from impact_pl.models.inference import FastLinear, inference_copy
from impact_pl.models.transformer import LAYER_NORM_EPS
from impact_pl.solvers import Step, advance, ancestral_steps

if TYPE_CHECKING:
    from impact_pl.models.heads.diffusion import AdaLNBlock, DiffusionHead

CHUNK_ROWS = 512  # pairs of timestep and position whose modulations are held at once


class DiffusionLoop:
    """:meth:`DiffusionHead.sample`: the same draws from the same noise, up to rounding. A snapshot of its weights.

    Shift, scale and gate of a block depend on condition and timestep only. They are more than half of the head's
    weights, and at a few rows reading weights is most of what a step does. So the modulations of all blocks come from
    one matrix product over many timesteps at once: as many as make :data:`CHUNK_ROWS` rows, or one.

    A norm's own weight w and bias b are folded into the modulation: (n w + b) (1 + scale) + shift is
    n (w + w scale) + (b + b scale + shift), linear in the condition like scale and shift.

    The noisy patch and the arithmetic of the diffusion step stay float32.
    """

    def __init__(self, head: "DiffusionHead", dtype: torch.dtype) -> None:
        self.patch_dim, self.schedule, self.width = head.patch_dim, head.schedule, head.cond_proj.out_features
        self.predicts_velocity = head.predicts_velocity
        self.time_embed = inference_copy(head.time_embed, torch.float32)
        self.cond_proj, self.input_proj, self.final_proj = (
            _fast(layer, dtype) for layer in (head.cond_proj, head.input_proj, head.final_proj)
        )
        blocks = cast("list[AdaLNBlock]", list(head.blocks))
        self.blocks = [(_fast(block.fc1, dtype), _fast(block.fc2, dtype)) for block in blocks]
        folded = [_fold(block.modulation, block.norm) for block in blocks]
        folded += [_fold(head.final_modulation, head.final_norm)]
        weights, biases = zip(*folded, strict=True)
        self.modulation = FastLinear(torch.cat(weights), torch.cat(biases), dtype)
        self._plans: dict[Sampling, tuple[list[Step], Tensor]] = {}

    def sample(
        self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: torch.Generator
    ) -> Tensor:
        """Patches (B, K, P)."""
        shape = (*hidden.shape[:-1], self.patch_dim)
        steps, times = self._plan(sampling, hidden.device)
        start = draw_normal(shape, generator, hidden.device)
        noises = [draw_normal(shape, generator, hidden.device).flatten(0, 1) for _ in steps[1:]]  # each (R, P)
        both = hidden[None] if null_hidden is None else torch.stack([hidden, null_hidden])
        cond = self.cond_proj(both.flatten(1, 2))  # (G, R, V)
        x = self._solve(steps, times, cond, start.flatten(0, 1), noises, sampling.guidance_scale)
        return x.view(shape)

    def _plan(self, sampling: Sampling, device: torch.device) -> tuple[list[Step], Tensor]:
        """Steps, and the embeddings (S, V) of their timesteps; kept, because every iteration wants the same."""
        key = replace(sampling, guidance_scale=1.0)
        if key not in self._plans:
            schedule = self.schedule(sampling.num_diffusion_steps, device, sampling.min_alpha_bar)
            times = self.time_embed(schedule.timesteps.flip(0))
            self._plans[key] = ancestral_steps(schedule, self.predicts_velocity, sampling.temperature), times
        return self._plans[key]

    def _solve(
        self, steps: list[Step], times: Tensor, cond: Tensor, x: Tensor, noises: list[Tensor], guidance_scale: float
    ) -> Tensor:
        """From x_T (R, P) to a sample (R, P)."""
        noise = iter([*noises, None])
        together = max(1, CHUNK_ROWS // cond.shape[:2].numel())  # timesteps
        for first in range(0, len(steps), together):
            embedded = F.silu(times[first : first + together, None, None] + cond)  # (s, G, R, V)
            modulations = self.modulation(embedded).unflatten(-1, (-1, self.width))  # (s, G, R, M, V)
            for step, modulation in zip(steps[first : first + together], modulations, strict=True):
                x = advance(step, x, *self._denoise(x, modulation, guidance_scale), next(noise))
        return x

    def _denoise(self, x: Tensor, modulation: Tensor, guidance_scale: float) -> tuple[Tensor, Tensor]:
        """The head's output under guidance, noise or velocity, and the conditional variance, each (R, P).

        Guidance works on the noise: of noise and velocity, each is linear in the other for a given x, so on both alike.

        Args:
            x: noisy patches (R, P).
            modulation: (G, R, M, V) of a timestep.
        """
        modulations = iter(modulation.unbind(-2))
        h = self.input_proj(x)  # (R, V); (G, R, V) from the first block on
        for fc1, fc2 in self.blocks:
            shift, scale, gate = next(modulations), next(modulations), next(modulations)
            h = torch.addcmul(h, gate, fc2(F.silu(fc1(self._modulate(h, shift, scale)))))
        output, variance = self.final_proj(self._modulate(h, *modulations)).float().chunk(2, dim=-1)  # (G, R, P)
        guided = output[0] if len(output) == 1 else torch.lerp(output[1], output[0], guidance_scale)
        return guided, variance[0]

    def _modulate(self, h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return torch.addcmul(shift, F.layer_norm(h, (self.width,), eps=LAYER_NORM_EPS), scale)


def _fast(layer: nn.Linear, dtype: torch.dtype) -> FastLinear:
    return FastLinear(layer.weight, layer.bias, dtype)


def _fold(modulation: nn.Linear, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of ``modulation`` with the norm's w and b in them, for a norm without: [shift; scale; ...]."""
    one = torch.ones_like(modulation.bias[: len(modulation.weight[0])])
    w, b = (one, 0 * one) if norm.weight is None else (norm.weight, norm.bias)
    weight = modulation.weight.unflatten(0, (-1, len(one)))  # (2 or 3, V, V)
    bias = modulation.bias.unflatten(0, (-1, len(one)))
    weight = torch.stack([weight[0] + b[:, None] * weight[1], w[:, None] * weight[1], *weight[2:]])
    bias = torch.stack([bias[0] + b * (1 + bias[1]), w * (1 + bias[1]), *bias[2:]])
    return weight.flatten(0, 1), bias.flatten()
