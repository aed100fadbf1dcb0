"""What a one-step head learns from: the draws of the diffusion head that it was made of.

Dimensions: B clips, K positions, D width of hidden, P numbers a patch.
"""

import dataclasses
from typing import cast

import torch
from torch import Tensor, nn

from impact_pl.config import DistillConfig
from impact_pl.models.heads import head_class
from impact_pl.models.heads.base import Head, Sampling
from impact_pl.models.heads.energy import EnergyHead
from impact_pl.models.spec import ImpactSpec

SCHEDULED = 0.5  # of the clips: guided as S1's schedule would, the others by any scale


class Teacher(nn.Module):
    """A trained head that stays as it is, and how it draws.

    Data are one draw a position, without guidance. A teacher gives draws under guidance, and at its temperature: what
    its own sampling would have made, at every strength of guidance from 1 to ``distill.guidance_scale``; half of the
    time at the one that S1's schedule has where so much is masked.

    Args:
        spec: of the student, which the teacher equals but for the head.
        patch_dim: P.
        config: how it draws.
    """

    def __init__(self, spec: ImpactSpec, patch_dim: int, config: DistillConfig) -> None:
        super().__init__()
        name = head_class(spec.model.head).teacher
        assert name is not None, f"{spec.model.head} learns from data"
        self.head_name = name
        self.head = head_class(name)(dataclasses.replace(spec.model, head=name), patch_dim)
        self.requires_grad_(False)
        self.num_positions, self.guidance_scale = config.num_positions, config.guidance_scale
        self.sampling = Sampling(
            num_diffusion_steps=config.num_diffusion_steps,
            temperature=config.temperature,
            min_alpha_bar=config.min_alpha_bar,
        )

    @torch.no_grad()
    def draw(
        self, hidden: Tensor, null_hidden: Tensor, mask_ratio: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Patches (B, K, P) for both hidden vectors (B, K, D), and the clips' guidance scales (B, 1, 1).

        S1 reveals so that cos(pi/2 t/T) is the masked share, and guides by 1 + cos(pi/2 t/T) (beta_max - 1).
        """
        share, kind = torch.rand(2, len(hidden), 1, 1, generator=generator, device=generator.device).to(hidden.device)
        scale = 1 + torch.where(kind < SCHEDULED, mask_ratio, share) * (self.guidance_scale - 1)
        sampling = dataclasses.replace(self.sampling, guidance_scale=scale)
        return self.head.sample(hidden, null_hidden, sampling, generator), scale

    def loss_of(
        self,
        student: Head,
        hidden: Tensor,
        null_hidden: Tensor,
        mask_ratio: float,
        generator: torch.Generator,
        batch_mul: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """:meth:`EnergyHead.loss` of the student on new draws, both (B, K)."""
        target, scale = self.draw(hidden, null_hidden, mask_ratio, generator)
        return cast(EnergyHead, student).loss(hidden, target, generator, batch_mul, null_hidden, scale)
