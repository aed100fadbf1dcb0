"""Distillation: a one-step head learns the paths of the diffusion head that it was made of.

Dimensions: B clips, K positions, D width of hidden, P numbers a patch, S steps.
"""

import dataclasses
from typing import Any, cast

import torch
from torch import Tensor, nn

from impact_pl.config import DistillConfig, TrainConfig
from impact_pl.errors import UserError
from impact_pl.models.heads.base import Head, Sampling
from impact_pl.models.heads.consistency import ConsistencyHead
from impact_pl.models.heads.diffusion import DiffusionHead
from impact_pl.models.impact import Impact, ImpactLoss, drop_captions
from impact_pl.models.spec import ImpactSpec
from impact_pl.training.modules import TextConditionalTraining

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


def distillation_loss(
    model: Impact,
    teacher: Teacher,
    latents: Tensor,
    text: Any,
    generator: torch.Generator,
    caption_dropout: float = 0.0,
) -> ImpactLoss:
    """:meth:`ConsistencyHead.loss_of_path` on new paths of the teacher; arguments as :meth:`Impact.loss`."""
    patches = model.patchify(latents)
    order, num_masked = model.draw_mask(patches, generator)
    text = drop_captions(text, caption_dropout, generator)
    masked = order[:, : min(num_masked, teacher.num_positions)]  # (B, K)
    hidden = model.encode(patches, text, order, num_masked, masked)
    null_hidden = model.encode(patches, None, order, num_masked, masked)
    mask_ratio, batch_mul = num_masked / patches.shape[1], model.spec.model.diffusion_batch_mul
    losses, drawn = teacher.loss_of(model.head, hidden, null_hidden, mask_ratio, generator, batch_mul)
    return ImpactLoss.of(losses, drawn, mask_ratio)


class Distillation(TextConditionalTraining):
    """After stage 2: a one-step head learns where the trained head goes, on an encoder that stays as it is."""

    stage = "distill"
    teacher: Teacher  # part of checkpoints, not of the model

    def __init__(self, spec: ImpactSpec, config: TrainConfig):
        super().__init__(spec, config)
        self.model.requires_grad_(False)
        self.model.head.requires_grad_(True)
        self.teacher = Teacher(spec, self.model.patch_dim, config.distill)

    def train(self, mode: bool = True) -> "Distillation":
        super().train(mode)
        self.model.encoder.eval()  # used as it will be: no dropout
        return self

    def loss(
        self, model: Impact, latents: Tensor, text: Any, generator: torch.Generator, caption_dropout: float = 0.0
    ) -> ImpactLoss:
        return model.within_forward(distillation_loss, self.teacher, latents, text, generator, caption_dropout)

    def start_from(self, source: Impact) -> list[str]:
        if source.spec.model.head != ConsistencyHead.teacher:
            raise UserError(
                f"init_from={self.config.init_from} has the head {source.spec.model.head}: stage distill wants a model "
                f"with the head {ConsistencyHead.teacher}, as stage text trains it"
            )
        self.teacher.head.load_state_dict(source.head.state_dict())
        new = super().start_from(source)
        untrained = [name for name in new if not name.startswith("head.")]
        if untrained:
            raise UserError(
                f"init_from={self.config.init_from} has no weights for {', '.join(untrained)}, and stage distill "
                "trains the head alone: start from a trained model of the stage text"
            )
        return new
