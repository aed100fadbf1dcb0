"""Diffusion head sampling with all computation independent of the noisy patch moved out of the loop.

Dimension key: G = 2 with guidance (condition, null condition), else 1; R = B K positions; V width of the head; P
numbers per patch; S diffusion steps; M = 3 modulations per block and 2 at the end.
"""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impact_pl.inference.cuda_graphs import Graphed, bucket
from impact_pl.inference.fast_linear import FastLinear, inference_copy
from impact_pl.models.heads.base import Sampling
from impact_pl.models.heads.diffusion import AdaLNBlock, DiffusionHead
from impact_pl.models.transformer import LAYER_NORM_EPS
from impact_pl.randomness import Generators, draw_normals
from impact_pl.sampling.diffusion import make_schedule
from impact_pl.sampling.solvers import SOLVERS, Step, solve

CHUNK_ROWS = 512  # (timestep, position) pairs whose modulations are held in memory at once


class DiffusionLoop:
    """Faster :meth:`DiffusionHead.sample` with identical draws up to rounding, on a snapshot of the head's weights.

    Shift, scale and gate of a block depend on the condition and the timestep only. They hold more than half of the
    head's weights, and with few rows a step is dominated by reading weights. The modulations of all blocks therefore
    come from one matrix product over several timesteps at once: enough for :data:`CHUNK_ROWS` rows, or one.

    The weight w and bias b of a norm are folded into the modulation: (n w + b) (1 + scale) + shift equals n (w + w
    scale) + (b + b scale + shift), which is linear in the condition, like scale and shift.

    The noisy patch and the arithmetic of the diffusion step stay in float32.
    """

    def __init__(self, head: DiffusionHead, dtype: torch.dtype) -> None:
        self.patch_dim, self.num_timesteps, self.width = head.patch_dim, head.num_timesteps, head.cond_proj.out_features
        self.predicts_velocity = head.predicts_velocity
        self.time_embed = inference_copy(head.time_embed, torch.float32)
        self.cond_proj, self.input_proj, self.final_proj = (
            _fast(layer, dtype) for layer in (head.cond_proj, head.input_proj, head.final_proj)
        )
        blocks = cast("list[AdaLNBlock]", list(head.blocks))
        self.blocks = [(_fast(block.fc1, dtype, "silu"), _fast(block.fc2, dtype)) for block in blocks]
        folded = [_fold(block.modulation, block.norm) for block in blocks]
        folded += [_fold(head.final_modulation, head.final_norm)]
        weights, biases = zip(*folded, strict=True)
        self.modulation = FastLinear(torch.cat(weights), torch.cat(biases), dtype)
        self._plans: dict[Sampling, tuple[list[Step], Tensor]] = {}
        own = weakref.proxy(self)  # avoids a reference cycle, which would keep weights and graphs alive
        self._graphed = Graphed(lambda *arguments: own._solve(*arguments)) if head.final_proj.weight.is_cuda else None

    def sample(self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators) -> Tensor:
        """Sample patches (B, K, P)."""
        device, shape = hidden.device, (*hidden.shape[:-1], self.patch_dim)
        first, *noises = draw_normals(1 + sampling.num_noises, shape, generator, device)
        start = sampling.start_std * first
        cond = self.cond_proj(torch.stack([hidden] if null_hidden is None else [hidden, null_hidden]))  # (G, B, K, V)
        noise = torch.stack(noises) if noises else start.new_zeros(0, *shape)  # (S - 1 or 0, B, K, P)
        guidance_scale = torch.full((), float(sampling.guidance_scale), device=device)  # not in a graph's key
        plan = replace(sampling, guidance_scale=1.0)
        x = self.solve(plan, cond.flatten(1, 2), start.flatten(0, 1), noise.flatten(1, 2), guidance_scale)
        return x.view(shape)

    def solve(self, sampling: Sampling, cond: Tensor, x: Tensor, noise: Tensor, guidance_scale: Tensor) -> Tensor:
        """Run :meth:`_solve`; on CUDA in graphs, with the rows padded to a shared number."""
        if self._graphed is None:
            return self._solve(sampling, cond, x, noise, guidance_scale)
        return in_buckets(self._graphed, sampling, cond, x, noise, guidance_scale)

    def _plan(self, sampling: Sampling, device: torch.device) -> tuple[list[Step], Tensor]:
        """Return the steps and their timestep embeddings (S, V), cached because every iteration needs the same."""
        if sampling not in self._plans:
            schedule = make_schedule(self.num_timesteps, sampling.num_diffusion_steps, sampling.min_alpha_bar)
            steps = SOLVERS[sampling.solver](schedule, self.predicts_velocity, sampling.temperature)
            self._plans[sampling] = steps, self.time_embed(schedule.timesteps.flip(0).to(device))
        return self._plans[sampling]

    def _solve(self, sampling: Sampling, cond: Tensor, x: Tensor, noise: Tensor, guidance_scale: Tensor) -> Tensor:
        """Run the steps from x_T (R, P) to a sample (R, P), with cond (G, R, V) and noise (S - 1 or 0, R, P)."""
        steps, times = self._plan(sampling, x.device)
        modulations = self._modulations(times, cond)
        denoise = lambda x, step: self._denoise(x, next(modulations), guidance_scale)  # noqa: E731
        return solve(denoise, steps, x, noise, sampling.max_rms)

    def _modulations(self, times: Tensor, cond: Tensor) -> Iterator[Tensor]:
        """Yield modulations (G, R, M, V) per timestep from timestep embeddings (S, V) and conditions (G, R, V)."""
        together = max(1, CHUNK_ROWS // cond.shape[:2].numel())  # timesteps per matrix product
        for some in times.split(together):
            embedded = F.silu(some[:, None, None] + cond)  # (s, G, R, V)
            yield from self.modulation(embedded).unflatten(-1, (-1, self.width))

    def _denoise(self, x: Tensor, modulation: Tensor, guidance_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the guided output of the head (noise or velocity) and the conditional variance, each (R, P).

        Noise and velocity are linear in each other for a given x, so guidance acts on both alike.

        Args:
            x: Noisy patches (R, P).
            modulation: (G, R, M, V) of one timestep.
            guidance_scale: Guidance scale.
        """
        modulations = iter(modulation.unbind(-2))
        h = self.input_proj(x)  # (R, V); (G, R, V) from the first block on
        for fc1, fc2 in self.blocks:
            shift, scale, gate = next(modulations), next(modulations), next(modulations)
            h = torch.addcmul(h, gate, fc2(fc1(self._modulate(h, shift, scale))))
        output, variance = self.final_proj(self._modulate(h, *modulations)).float().chunk(2, dim=-1)  # (G, R, P)
        guided = output[0] if len(output) == 1 else torch.lerp(output[1], output[0], guidance_scale)
        return guided, variance[0]

    def _modulate(self, h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return torch.addcmul(shift, F.layer_norm(h, (self.width,), eps=LAYER_NORM_EPS), scale)


def _fast(layer: nn.Linear, dtype: torch.dtype, activation: str = "none") -> FastLinear:
    return FastLinear(layer.weight, layer.bias, dtype, activation)


def in_buckets(
    solve: Callable[..., Tensor], sampling: Sampling, cond: Tensor, x: Tensor, noise: Tensor, guidance_scale: Tensor
) -> Tensor:
    """Call ``solve`` with its R rows padded to a shared number."""
    spare = (0, 0, 0, bucket(len(x)) - len(x))
    return solve(sampling, F.pad(cond, spare), F.pad(x, spare), F.pad(noise, spare), guidance_scale)[: len(x)]


def _fold(modulation: nn.Linear, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Fold the norm's w and b into weight and bias of ``modulation``, laid out as [shift; scale; ...]."""
    one = torch.ones_like(modulation.bias[: len(modulation.weight[0])])
    w, b = (one, 0 * one) if norm.weight is None else (norm.weight, norm.bias)
    weight = modulation.weight.unflatten(0, (-1, len(one)))  # (2 or 3, V, V)
    bias = modulation.bias.unflatten(0, (-1, len(one)))
    weight = torch.stack([weight[0] + b[:, None] * weight[1], w[:, None] * weight[1], *weight[2:]])
    bias = torch.stack([bias[0] + b * (1 + bias[1]), w * (1 + bias[1]), *bias[2:]])
    return weight.flatten(0, 1), bias.flatten()
