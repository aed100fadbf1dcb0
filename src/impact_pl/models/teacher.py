"""What a one-step head learns from: the paths of the diffusion head that it was made of.

Dimensions: B clips, K positions, D width of hidden, P numbers a patch, S steps.
"""

import dataclasses
from typing import cast

import torch
from torch import Tensor, nn

from impact_pl.config import DistillConfig
from impact_pl.models.heads.base import Head, Sampling
from impact_pl.models.heads.consistency import ConsistencyHead
from impact_pl.models.heads.diffusion import DiffusionHead
from impact_pl.models.spec import ImpactSpec

SCHEDULED = 0.5  # of the clips: guided as S1's schedule would, the others by any scale


class Teacher(nn.Module):
    """A trained diffusion head that stays as it is, and goes from noise to a patch without adding noise on its way.

    It starts where the student will (``decoding.temperature``, ``decoding.min_alpha_bar``), and is guided by every
    strength from 1 to ``decoding.guidance_scale``; half of the time by the one that S1's schedule has where so much is
    masked.

    Args:
        spec: of the student, which the teacher equals but for the head.
        patch_dim: P.
        config: how many steps and positions.
    """

    def __init__(self, spec: ImpactSpec, patch_dim: int, config: DistillConfig) -> None:
        super().__init__()
        self.head = DiffusionHead(dataclasses.replace(spec.model, head=ConsistencyHead.teacher), patch_dim)
        self.requires_grad_(False)
        self.num_positions, self.num_diffusion_steps = config.num_positions, config.num_diffusion_steps
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
        steps, decoding = self.num_diffusion_steps, self.decoding
        sampling = Sampling(scale, steps, decoding.temperature, decoding.min_alpha_bar, "ddim")
        path = torch.stack(list(self.head.path(hidden, null_hidden, sampling, generator)))
        return path, self.head.schedule(steps, hidden.device, decoding.min_alpha_bar).timesteps.flip(0), scale

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
