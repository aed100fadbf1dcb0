"""What a one-step head learns from: the paths of the diffusion head that it was made of.

Dimensions: B clips, K positions, D width of hidden, P numbers a patch, S steps.
"""

import dataclasses
from typing import cast

import torch
from torch import Tensor, nn

from impact_pl.config import DistillConfig
from impact_pl.diffusion import draw_normal
from impact_pl.models.heads import head_class
from impact_pl.models.heads.base import Head
from impact_pl.models.heads.consistency import ConsistencyHead
from impact_pl.models.heads.diffusion import DiffusionHead
from impact_pl.models.spec import ImpactSpec
from impact_pl.solvers import ddim, trajectory

SCHEDULED = 0.5  # of the clips: guided as S1's schedule would, the others by any scale


class Teacher(nn.Module):
    """A trained head that stays as it is, and walks from noise to a patch without adding any.

    It does so as the student will be decoded (``decoding.temperature``, ``min_alpha_bar``), and under guidance of every
    strength from 1 to ``decoding.guidance_scale``; half of the time the one that S1's schedule has where so much is
    masked.

    Args:
        spec: of the student, which the teacher equals but for the head.
        patch_dim: P.
        config: how many steps and positions.
    """

    def __init__(self, spec: ImpactSpec, patch_dim: int, config: DistillConfig) -> None:
        super().__init__()
        name = head_class(spec.model.head).teacher
        assert name is not None, f"{spec.model.head} learns from data"
        self.head_name = name
        self.head = cast(DiffusionHead, head_class(name)(dataclasses.replace(spec.model, head=name), patch_dim))
        self.requires_grad_(False)
        self.num_positions, self.num_steps = config.num_positions, config.num_diffusion_steps
        self.decoding = spec.own_decoding

    @torch.no_grad()
    def walk(
        self, hidden: Tensor, null_hidden: Tensor, mask_ratio: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Paths (S + 1, B, K, P), the timesteps (S,) of their points but the last, and guidance scales (B, 1, 1).

        S1 reveals so that cos(pi/2 t/T) is the masked share, and guides by 1 + cos(pi/2 t/T) (beta_max - 1).

        Args:
            hidden: (B, K, D).
            null_hidden: (B, K, D), of the null condition.
            mask_ratio: share of the clips that is masked.
            generator: of noise and scales.
        """
        share, kind = torch.rand(2, len(hidden), 1, 1, generator=generator, device=generator.device).to(hidden.device)
        scale = 1 + torch.where(kind < SCHEDULED, mask_ratio, share) * (self.decoding.guidance_scale - 1)
        schedule = self.head.schedule(self.num_steps, hidden.device, self.decoding.min_alpha_bar)
        timesteps = schedule.timesteps.flip(0)
        denoise = self.head.denoiser(hidden, null_hidden, scale)
        shape = (*hidden.shape[:-1], self.head.patch_dim)
        start = self.decoding.temperature * draw_normal(shape, generator, hidden.device)
        path = trajectory(lambda x, i: denoise(x, timesteps[i : i + 1]), ddim(schedule), start, [])
        return torch.stack([start, *path]), timesteps, scale

    def loss_of(
        self,
        student: Head,
        hidden: Tensor,
        null_hidden: Tensor,
        mask_ratio: float,
        generator: torch.Generator,
        batch_mul: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """:meth:`ConsistencyHead.loss_of_path` of the student on new paths."""
        student = cast(ConsistencyHead, student)
        path, timesteps, scale = self.walk(hidden, null_hidden, mask_ratio, generator)
        cond = student.condition(hidden, null_hidden, scale)
        return student.loss_of_path(path, timesteps, cond, generator, batch_mul)
