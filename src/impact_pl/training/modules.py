"""The stages as LightningModules: pre-training without text, then text-conditional training (IMPACT Sec. 3.1)."""

import dataclasses
import logging
import math
import time
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from typing_extensions import Self

from impact_pl.config import OptimConfig, TrainConfig
from impact_pl.data.datamodule import LatentDataModule
from impact_pl.data.order import derive_seed
from impact_pl.errors import UserError
from impact_pl.models.impact import Impact, ImpactLoss, drop_tokens
from impact_pl.models.spec import ImpactSpec
from impact_pl.secrets import without_secrets
from impact_pl.training.check import build_spec
from impact_pl.training.checkpoint import rewind_loops, start_from
from impact_pl.training.lora import add_adapters
from impact_pl.training.optim import ExponentialMovingAverage, build_optimizer, build_schedule, set_hyperparameters
from impact_pl.training.strategies import clipping, prepare

logger = logging.getLogger(__name__)

NOISE, DROPOUT, VALIDATION = range(3)  # purposes of derived seeds


class ImpactTraining(LightningModule):
    """Base class of the training stages.

    Noise, masks, timesteps and dropout of a batch derive from (seed, step, slot), see ``data.order``. They depend
    neither on earlier steps nor on how the slots are distributed over processes.

    Args:
        spec: Specification of the model, which is initialised with random weights from ``config.seed``.
        config: The complete training configuration, stored in checkpoints as plain dicts.
    """

    stage: str
    has_text = True

    def __init__(self, spec: ImpactSpec, config: TrainConfig):
        super().__init__()
        stored = without_secrets(dataclasses.asdict(config))
        plain = {"stage": self.stage, "spec": dataclasses.asdict(spec), "config": stored}
        self.save_hyperparameters(plain, logger=False)
        self.config = config
        torch.manual_seed(config.seed)
        self.model = Impact(spec)
        if config.lora.rank:
            add_adapters(self.model, config.lora)
        self.ema = ExponentialMovingAverage(self.model, config.optim.ema_decay, config.optim.ema_warmup)
        self.gradient_norm = self.last_lr = math.nan
        self.last_losses: dict[str, Any] = {}  # of the last micro-batch: loss, per_position, timesteps, mask_ratio
        self.batch_done_at = time.perf_counter()
        self.skipped_steps = 0
        self._step = -1  # optimizer step being accumulated
        self._losses: list[tuple[Tensor, list[str]]] = []  # loss and keys of its micro-batches
        self._is_prepared = False

    @classmethod
    def from_config(cls, config: TrainConfig, data: LatentDataModule) -> Self:
        """Build a module with random weights that fits ``data``, for your own Trainer.

        From ``config``, model, optim and decoding are used. Its trainer and run directory are ignored, except
        ``trainer.compile``, ``trainer.activation_checkpointing`` and ``trainer.strategy`` (deepspeed clips by itself).
        """
        config = dataclasses.replace(config, stage=cls.stage, data=data.config, seed=data.seed)
        return cls(build_spec(config, data.index, cls.has_text), config)

    def condition(self, batch: dict) -> Any:
        """Return the TextFeatures of a batch, or None in a stage without text."""
        raise NotImplementedError

    def loss(
        self, model: Impact, latents: Tensor, text: Any, generator: torch.Generator, caption_dropout: float = 0.0
    ) -> ImpactLoss:
        """Compute the loss of ``model``, the trained one or its average; for arguments see :meth:`Impact.loss`."""
        return model(latents, text, generator, caption_dropout)

    def start_from(self, source: Impact) -> list[str]:
        """Copy the weights of a trained model and return the names of those that it lacks."""
        return start_from(self.model, source)

    def configure_model(self) -> None:
        """Shard the model and its average. Lightning may call this repeatedly; only sharding strategies set a mesh."""
        if not self._is_prepared:
            self._is_prepared = True
            mesh = self.device_mesh["data_parallel"] if self.device_mesh is not None else None
            prepare(self.model, self.ema.model, self.config.trainer, mesh)

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        slot = self._next_micro_batch() * self.trainer.world_size + self.trainer.global_rank
        seed, step = self.config.seed, self.global_step
        torch.manual_seed(derive_seed(seed, step, slot, DROPOUT))
        generator = torch.Generator(self.device).manual_seed(derive_seed(seed, step, slot, NOISE))
        latents = self.model.whiten(batch["moments"], generator)  # (B, C, H, W)
        if self.config.data.random_shift:
            latents = shift_in_time(latents, generator)
        text = drop_tokens(self.condition(batch), self.config.data.token_dropout, generator)
        result = self.loss(self.model, latents, text, generator, self.caption_dropout)
        self._losses.append((result.loss.detach(), batch["keys"]))
        self.last_losses = {
            "loss": result.loss.detach(),
            "per_position": result.per_position.detach(),
            "timesteps": result.timesteps,
            "mask_ratio": result.mask_ratio,
        }
        self.log("train/loss", self.last_losses["loss"], prog_bar=True, batch_size=len(batch["keys"]))
        return result.loss

    def _next_micro_batch(self) -> int:
        """Return the index of this batch within its optimizer step."""
        if self.global_step != self._step:
            self._step = self.global_step
            self._losses.clear()
        return len(self._losses)

    @property
    def _is_last_micro_batch(self) -> bool:
        """Check whether the optimizer step is due. Some strategies call the hooks below after every micro-batch."""
        return len(self._losses) == self.trainer.accumulate_grad_batches

    @property
    def caption_dropout(self) -> float:
        return 0.0

    @property
    def data(self) -> LatentDataModule:
        """Data module of the trainer."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def on_validation_epoch_start(self) -> None:
        self._valid_sums = torch.zeros(2, device=self.device)  # loss times clips, clips

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Compute the loss of the averaged weights.

        Every batch has fixed noise and masks, the same in all training runs.
        """
        averaged = self.ema.model
        number = batch_idx * self.trainer.world_size + self.trainer.global_rank
        generator = torch.Generator(self.device).manual_seed(derive_seed(number, VALIDATION))
        latents = averaged.whiten(batch["moments"], generator)
        loss = self.loss(averaged, latents, self.condition(batch), generator).loss
        is_first_time = number < self.data.num_valid_batches
        clips = len(batch["keys"]) * is_first_time
        self._valid_sums += torch.stack([loss.float() * clips, torch.full_like(loss, clips, dtype=torch.float32)])

    def on_validation_epoch_end(self) -> None:
        total, clips = self.trainer.strategy.reduce(self._valid_sums, reduce_op="sum").tolist()
        if clips:  # loggers expect "step" here
            self.log_dict({"valid/loss": total / clips, "step": float(self.global_step)})

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.model, self.config.optim)
        schedule = build_schedule(optimizer, self.config.optim, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the global norm, and store the norm.

        Gradients are averaged over ranks by now, so a non-finite loss on one rank shows in every rank's norm: all ranks
        stop at the same step, before the optimizer or a checkpoint uses it.
        """
        if not self._is_last_micro_batch:
            return
        clip = clipping(self.config.trainer)
        self.gradient_norm = clip(self.model, optimizer, gradient_clip_val)
        if not math.isfinite(self.gradient_norm):
            self._skip_or_stop(optimizer)
        self.last_lr = optimizer.param_groups[0]["lr"]
        self.log("train/total_grad_norm", self.gradient_norm)

    def _skip_or_stop(self, optimizer: torch.optim.Optimizer) -> None:
        """Skip this step by removing its gradients, so that AdamW changes nothing.

        Raises:
            UserError: ``trainer.max_skipped_steps`` have been skipped already.
        """
        allowed, norm = self.config.trainer.max_skipped_steps, self.gradient_norm
        if self.skipped_steps >= allowed:
            raise UserError(explain_non_finite(self.global_step, norm, self._losses, self.config.optim))
        self.skipped_steps += 1
        optimizer.zero_grad(set_to_none=True)
        what = describe_non_finite(norm, self._losses)
        logger.warning("step %d left out (%d of %d): %s", self.global_step, self.skipped_steps, allowed, what)
        self.log("skipped_steps", float(self.skipped_steps))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        if self._is_last_micro_batch:
            self.ema.update(self.model, step)

    def on_train_batch_end(self, outputs: Any, batch: dict, batch_idx: int) -> None:
        self.batch_done_at = time.perf_counter()  # after all callbacks; from here on the loop waits for the next batch

    def on_train_start(self) -> None:
        self.batch_done_at = time.perf_counter()

    def on_validation_end(self) -> None:
        self.batch_done_at = time.perf_counter()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_steps"] = self.skipped_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped_steps = checkpoint["skipped_steps"]
        rewind_loops(checkpoint, self.trainer)
        set_hyperparameters(checkpoint, self.config.optim, self.trainer.max_steps)


def shift_in_time(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate every clip of latents (B, C, H, W) in time, so that it begins at a random frame and wraps around."""
    batch, _, frames, _ = latents.shape
    first = torch.randint(frames, (batch, 1), generator=generator, device=generator.device).to(latents.device)
    order = (first + torch.arange(frames, device=latents.device)) % frames  # (B, H)
    return latents.gather(2, order[:, None, :, None].expand_as(latents))


class UnconditionalPretraining(ImpactTraining):
    """Stage 1: predict masked patches from unmasked ones. Captions in the shards are ignored."""

    stage = "pretrain"
    has_text = False

    def condition(self, batch: dict) -> None:
        return None


class TextConditionalTraining(ImpactTraining):
    """Stage 2: condition on caption features, a fraction of them replaced by the null condition (for guidance)."""

    stage = "text"

    @property
    def caption_dropout(self) -> float:
        return self.config.data.caption_dropout

    def condition(self, batch: dict) -> Any:
        if batch["text"] is None:
            raise UserError(
                f"stage {self.stage} needs captions, but these clips have none: {', '.join(batch['keys'][:5])}. "
                "Precompute the shards from a manifest with captions, or train experiment=pretrain on them"
            )
        return batch["text"]


def describe_non_finite(gradient_norm: float, losses: list[tuple[Tensor, list[str]]]) -> str:
    """Name the clips of this rank's micro-batches whose loss is not finite, or all of them if only the gradient is."""
    bad = [(float(loss), keys) for loss, keys in losses if not torch.isfinite(loss)]
    if bad:
        return "; ".join(f"loss {loss} on the batch {', '.join(keys)}" for loss, keys in bad)
    clips = ", ".join(key for _, keys in losses for key in keys)
    return f"finite loss but gradient norm {gradient_norm} (this rank's batch: {clips})"


def explain_non_finite(
    step: int, gradient_norm: float, losses: list[tuple[Tensor, list[str]]], config: OptimConfig
) -> str:
    """Explain which clips produced a non-finite loss or gradient, and what to try.

    Args:
        step: The optimizer step that was not taken.
        gradient_norm: Gradient norm over all ranks.
        losses: Losses of this rank's micro-batches, with the keys of their clips.
        config: Source of the learning rate and clipping named in the message.
    """
    return (
        f"training stopped at step {step}: {describe_non_finite(gradient_norm, losses)}. "
        "The last checkpoint is from before and is kept. Listen to these "
        f"clips; if they are sound, try trainer.precision=32-true, a lower optim.lr (now {config.lr}) or a lower "
        f"optim.gradient_clip (now {config.gradient_clip}); trainer.max_skipped_steps=N leaves out up to N such steps"
    )
