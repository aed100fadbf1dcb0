"""Distillation: the consistency head learns the paths of the diffusion head that it is initialised from.

Dimension key: B clips, K positions, D width of hidden, P numbers per patch, S steps.
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

SCHEDULED = 0.5  # fraction of clips with the guidance of IMPACT's schedule, the others with any scale


class Teacher(nn.Module):
    """Frozen trained diffusion head that samples patches deterministically.

    It starts like the student (``decoding.temperature``, ``decoding.min_alpha_bar``). Guidance scales range from 1 to
    ``decoding.guidance_scale``; half of them are those of IMPACT's schedule at the mask ratio.

    Args:
        spec: Specification of the student, which equals the teacher's except for the head.
        patch_dim: P.
        config: Numbers of steps and positions.
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
        """Sample paths (S + 1, B, K, P), timesteps (S,) of all points except the last, and guidance scales (B, 1, 1).

        IMPACT's schedule has a masked fraction of cos(pi/2 t/T) and guidance 1 + cos(pi/2 t/T) (beta_max - 1).

        Args:
            hidden: (B, K, D).
            null_hidden: (B, K, D), from the null condition.
            mask_ratio: Masked fraction of the clips.
            generator: Source of noise and scales.
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
        """Compute the student's :meth:`ConsistencyHead.loss_of_path` on new paths."""
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
    """Compute :meth:`ConsistencyHead.loss_of_path` on new teacher paths; for arguments see :meth:`Impact.loss`."""
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
    """Train a consistency head after stage 2, on the frozen encoder of its teacher."""

    stage = "distill"
    teacher: Teacher  # saved in checkpoints, not in the model

    def __init__(self, spec: ImpactSpec, config: TrainConfig):
        super().__init__(spec, config)
        self.model.requires_grad_(False)
        self.model.head.requires_grad_(True)
        self.teacher = Teacher(spec, self.model.patch_dim, config.distill)

    def train(self, mode: bool = True) -> "Distillation":
        super().train(mode)
        self.model.encoder.eval()  # no dropout, as in generation
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
