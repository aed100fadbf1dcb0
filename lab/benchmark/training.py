"""Time a training step in several variants: clips per second, memory for the backward pass, utilization.

A step is the forward pass, the backward pass, clipping, AdamW and the EMA, as in ``training``, without Lightning around
it. The variants build on each other, from the reference's step to ours, so that each shows what it adds (the last two
additions: AdamW and dropout).

Dimension key: B clips, N patches, K masked positions per clip.
"""

import dataclasses
import functools
import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from impact_pl.config import MaskRatioConfig, OptimConfig, TrainerConfig
from impact_pl.errors import UserError
from impact_pl.models.condition import packed
from impact_pl.models.heads.base import LearnsFromData
from impact_pl.models.impact import Impact
from impact_pl.precision import resolve
from impact_pl.sampling.masking import mask_from_order, num_masked, random_order
from impact_pl.text_encoders.base import TextFeatures
from impact_pl.training.optim import ExponentialMovingAverage, build_optimizer
from impact_pl.training.strategies import clip_gradients, prepare, transformer_blocks
from lab.benchmark.machine import peak_of
from lab.benchmark.subject import Subject
from lab.benchmark.timing import seconds_of
from lab.cards.scaling import saved_storages

CAPTION_DROPOUT = 0.1


@dataclass(frozen=True)
class StepVariant:
    """Implementation of a step; the defaults are those of the reference."""

    precision: str = "32-true"
    attention_dropout: float = 0.1
    masked_only: bool = False  # compute the head's loss at masked positions, not everywhere times the mask
    packed_text: bool = False  # with a model's text_padding, not at all text positions
    quick_dropout: bool = False  # the blocks' own dropout; else PyTorch's
    fused: bool = False  # one AdamW kernel
    checkpointing: bool = False
    compile: bool = False


REFERENCE = StepVariant()
BF16 = dataclasses.replace(REFERENCE, precision="bf16")
FUSED_ATTENTION = dataclasses.replace(BF16, attention_dropout=0.0)
MASKED_ONLY = dataclasses.replace(FUSED_ATTENTION, masked_only=True)
PACKED_TEXT = dataclasses.replace(MASKED_ONLY, packed_text=True)
OURS = dataclasses.replace(PACKED_TEXT, quick_dropout=True, fused=True)
VARIANTS = {
    "the reference's step": REFERENCE,
    "bf16": BF16,
    "bf16, no attention dropout": FUSED_ATTENTION,
    "bf16, no attention dropout, masked-only head": MASKED_ONLY,
    "bf16, no attention dropout, masked-only head, packed text": PACKED_TEXT,
    "ours: all that, quick dropout and fused AdamW": OURS,
    "ours in float32": dataclasses.replace(OURS, precision="32-true"),
    "ours, attention dropout 0.1": dataclasses.replace(OURS, attention_dropout=0.1),
    "ours, head at all positions": dataclasses.replace(OURS, masked_only=False),
    "ours, all text positions": dataclasses.replace(OURS, packed_text=False),
    "ours, activation checkpointing": dataclasses.replace(OURS, checkpointing=True),
    "ours, compiled blocks": dataclasses.replace(OURS, compile=True),
    "ours, PyTorch's dropout": dataclasses.replace(OURS, quick_dropout=False),
}


def default_variants(device: torch.device, packs: bool) -> dict[str, StepVariant]:
    """All except the compiled one, those in bf16 where the device only emulates it, and repetitions on that device.

    ``packs``: the model has a text_padding.
    """
    computed = {resolve("auto", device), "32-true"}
    found: dict[StepVariant, str] = {}  # effective variant -> its first name
    for name, variant in VARIANTS.items():
        if variant.precision in computed and not variant.compile:
            quick = variant.quick_dropout and device.type == "cpu"
            there = dataclasses.replace(variant, packed_text=variant.packed_text and packs, quick_dropout=quick)
            found.setdefault(there, name)
    return {name: VARIANTS[name] for name in found.values()}


def mean_mask_ratio(config: MaskRatioConfig) -> float:
    """Expected share of a normal around 1 truncated to [low, 1], or the fixed one. Every timed step masks so many."""
    if config.kind == "fixed":
        return config.value
    a = (config.low - 1) / config.std
    density = [math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in (a, 0.0)]
    return 1 + config.std * (density[0] - density[1]) / (0.5 - 0.5 * math.erfc(-a / math.sqrt(2)))


class Stepper:
    """Run steps of one model in several variants, which share optimizer states where possible."""

    def __init__(self, subject: Subject, batch: int, num_frames: int) -> None:
        spec = subject.model.spec
        if spec.model.head != "diffusion":
            raise UserError(f"model.head = {spec.model.head!r}: training steps are timed with the diffusion head only.")
        ratio = mean_mask_ratio(spec.model.mask_ratio)
        spec.model.mask_ratio = MaskRatioConfig(kind="fixed", value=ratio)
        self.model: Impact = subject.model.train()
        self.device, self.batch = subject.device, batch
        self.num_patches = subject.num_patches(num_frames)
        self.masked = num_masked(self.num_patches, ratio)
        self.ema = ExponentialMovingAverage(self.model, 0.9999)
        self.latents = subject.latents(batch, num_frames)
        self.texts = {packed: subject.text(batch, full=not packed) for packed in (True, False)}
        self.generator = torch.Generator(self.device).manual_seed(0)
        self.optimizers = {fused: optimizer(self.model, fused) for fused in (False, True)}
        self.blocks: list[Any] = list(transformer_blocks(self.model))
        self.plain_forwards = [block.forward for block in self.blocks]
        self.dropouts: list[Any] = [
            part for block in self.blocks for part in block.modules() if isinstance(part, nn.Dropout)
        ]

    def step(self, variant: StepVariant) -> None:
        """Run one complete step."""
        with self._set_up(variant):
            loss = self.loss(variant)
            loss.backward()
            clip_gradients(self.model, self.optimizers[variant.fused], 3.0)
            self.optimizers[variant.fused].step()
            self.optimizers[variant.fused].zero_grad()
            self.ema.update(self.model, 10_000)

    def loss(self, variant: StepVariant) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=variant.precision == "bf16"):
            text = self.texts[variant.packed_text]
            if not variant.masked_only:
                return loss_at_all(self.model, self.latents, text, self.generator)
            # A dropped caption is shorter: then not all positions would be there, and attention would have a mask.
            dropout = CAPTION_DROPOUT if variant.packed_text else 0.0
            return self.model(self.latents, text, self.generator, dropout).loss

    def kept_bytes(self, variant: StepVariant) -> int:
        """Count the bytes that the forward pass keeps for the backward pass, without weights."""
        with self._set_up(variant), saved_storages(self.model) as kept:
            self.loss(variant)
        return sum(kept.values())

    def flops(self) -> int:
        """FLOPs of the matrix products and attention of one step, as our variant computes them."""
        variant = dataclasses.replace(OURS, precision="32-true")
        # A CPU's fused attention is not counted.
        with self._set_up(variant), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.loss(variant).backward()
        self.optimizers[variant.fused].zero_grad()
        return counter.get_total_flops()

    @contextmanager
    def _set_up(self, variant: StepVariant) -> Iterator[None]:
        """Apply a variant's dropout, checkpointing and compilation to the model, as in ``training``."""
        trainer = TrainerConfig(compile=variant.compile, activation_checkpointing=variant.checkpointing)
        prepare(self.model, self.ema.model, trainer, None)
        for block in self.blocks:
            block.attn.attention_dropout = variant.attention_dropout
        if not variant.quick_dropout:
            for dropout in self.dropouts:
                dropout.forward = functools.partial(nn.Dropout.forward, dropout)
        try:
            yield
        finally:
            for dropout in self.dropouts:
                vars(dropout).pop("forward", None)
            for block, forward in zip(self.blocks, self.plain_forwards, strict=True):
                block.forward = forward


def optimizer(model: Impact, fused: bool) -> torch.optim.AdamW:
    """Create the training's AdamW, or PyTorch's default implementation as the reference uses it."""
    built = build_optimizer(model, OptimConfig())
    if not fused:
        for group in built.param_groups:
            group["fused"] = None
    return built


def loss_at_all(model: Impact, latents: Tensor, text: TextFeatures | None, generator: torch.Generator) -> Tensor:
    """Compute the training loss as MAR does: the head runs at all positions, and unmasked ones are multiplied by 0."""
    patches = model.patchify(latents)
    batch, num_patches, _ = patches.shape
    config = model.spec.model
    order = random_order(batch, num_patches, generator, patches.device)
    mask = mask_from_order(order, num_masked(num_patches, config.mask_ratio.value))
    hidden = model.encoder(patches, mask, packed(model.embed_text(text, batch)))
    head = cast(LearnsFromData, model.head)
    losses, _ = head.loss(hidden, patches, generator, config.diffusion_batch_mul)
    weight = mask.repeat(len(losses) // batch, 1)
    return (losses * weight).sum() / weight.sum()


def measure(
    stepper: Stepper, variants: dict[str, StepVariant], product_rates: dict[str, float], repeats: int
) -> list[dict[str, Any]]:
    """Measure rows of a record, one per variant."""
    kept = {name: stepper.kept_bytes(variant) for name, variant in variants.items()}
    for variant in {variant.fused: variant for variant in variants.values()}.values():
        stepper.step(variant)  # allocates the optimizer's state, which belongs to no variant
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):  # in turns, so that a change of the machine's load affects all of them
        for name, variant in variants.items():
            stepper.step(variant)  # uncounted: in training, the previous step had the same shapes and left its memory
            times[name].append(seconds_of(functools.partial(stepper.step, variant)))
    seconds = {name: statistics.median(found) for name, found in times.items()}
    flops = stepper.flops()
    peak = peak_of(torch.cuda.get_device_name(stepper.device)) if stepper.device.type == "cuda" else None
    return [
        {
            "variant": name,
            **dataclasses.asdict(variant),
            "batch": stepper.batch,
            "masked": stepper.masked,
            "flops": flops,
            "seconds": seconds[name],
            "clips_per_second": stepper.batch / seconds[name],
            "utilisation": flops / seconds[name] / product_rates[variant.precision],
            "peak_utilisation": flops / seconds[name] / peak if peak and variant.precision == "bf16" else None,
            "kept_bytes": kept[name],
            "peak_bytes": peak_bytes(stepper, variant),
        }
        for name, variant in variants.items()
    ]


def peak_bytes(stepper: Stepper, variant: StepVariant) -> int | None:
    """Measure a GPU's peak memory during a step, including both optimizers' states; None on a CPU."""
    if stepper.device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(stepper.device)
    stepper.step(variant)
    torch.cuda.synchronize(stepper.device)
    return torch.cuda.max_memory_allocated(stepper.device)
