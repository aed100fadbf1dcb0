"""How fast a training step is, in several ways: clips/s, memory for the backward pass, model FLOPs utilisation (MFU).

A step is the forward pass, the backward pass, clipping, AdamW and the average, as in ``training``, without Lightning
around it. Ways are built one on the other, from the reference's step to ours, so that each shows what it adds (the last
two things: AdamW and dropout).

Dimensions: B clips, N patches, K masked positions a clip.
"""

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from impact_pl.config import MaskRatioConfig, OptimConfig, TrainerConfig
from impact_pl.data.datamodule import latent_loader
from impact_pl.data.order import SampleStream, SlotSampler
from impact_pl.data.shards import LatentDataset
from impact_pl.errors import UserError
from impact_pl.models.condition import packed
from impact_pl.models.heads.base import LearnsFromData
from impact_pl.models.impact import Impact
from impact_pl.precision import resolve
from impact_pl.sampling.masking import mask_from_order, num_masked, random_order
from impact_pl.text_encoders.base import TextFeatures
from impact_pl.training.ema import ExponentialMovingAverage
from impact_pl.training.optim import build_optimizer
from impact_pl.training.strategies import clip_gradients, prepare, transformer_blocks
from lab.benchmark.machine import Rates, peak_of
from lab.benchmark.subject import Subject
from lab.benchmark.timing import seconds_of, synchronize
from lab.benchmark.work import training_flops
from lab.cards.scaling import saved_storages

CAPTION_DROPOUT = 0.1


@dataclass(frozen=True)
class Way:
    """A way to make a step; the defaults are the reference's."""

    precision: str = "32-true"
    attention_dropout: float = 0.1
    masked_only: bool = False  # the head's loss at masked positions; else at all, times the mask
    packed_text: bool = False  # with a model's text_padding; else at all text positions
    quick_dropout: bool = False  # the blocks' own dropout; else PyTorch's
    fused: bool = False  # AdamW as one kernel
    checkpointing: bool = False
    compile: bool = False


REFERENCE = Way()
BF16 = dataclasses.replace(REFERENCE, precision="bf16")
FUSED_ATTENTION = dataclasses.replace(BF16, attention_dropout=0.0)
MASKED_ONLY = dataclasses.replace(FUSED_ATTENTION, masked_only=True)
PACKED_TEXT = dataclasses.replace(MASKED_ONLY, packed_text=True)
OURS = dataclasses.replace(PACKED_TEXT, quick_dropout=True, fused=True)
WAYS = {
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


def default_ways(device: torch.device, packs: bool) -> dict[str, Way]:
    """All but the compiled one, those in bf16 where the device only emulates it, and what an earlier way does there.

    ``packs``: the model has a text_padding.
    """
    computed = {resolve("auto", device), "32-true"}
    found: dict[Way, str] = {}  # as it is there -> its first name
    for name, way in WAYS.items():
        if way.precision in computed and not way.compile:
            quick = way.quick_dropout and device.type == "cpu"
            there = dataclasses.replace(way, packed_text=way.packed_text and packs, quick_dropout=quick)
            found.setdefault(there, name)
    return {name: WAYS[name] for name in found.values()}


def ours(device: torch.device) -> Way:
    """Our step in the precision that suits ``device``."""
    return dataclasses.replace(OURS, precision=resolve("auto", device))


def mean_mask_ratio(config: MaskRatioConfig) -> float:
    """Expected share of a normal around 1 truncated to [low, 1], or the fixed one. Every timed step masks so many."""
    if config.kind == "fixed":
        return config.value
    a = (config.low - 1) / config.std
    density = [math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in (a, 0.0)]
    return 1 + config.std * (density[0] - density[1]) / (0.5 - 0.5 * math.erfc(-a / math.sqrt(2)))


class Stepper:
    """Steps of one model in several ways; optimizers' states are shared by ways that can share them."""

    def __init__(self, subject: Subject, batch: int, num_frames: int) -> None:
        spec = subject.model.spec
        if spec.model.head != "diffusion":
            raise UserError(f"model.head = {spec.model.head!r}: the work of training is counted for diffusion only.")
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

    def step(self, way: Way) -> None:
        """One whole step."""
        with self._laid_out(way):
            loss = self.loss(way)
            loss.backward()
            clip_gradients(self.model, self.optimizers[way.fused], 3.0)
            self.optimizers[way.fused].step()
            self.optimizers[way.fused].zero_grad()
            self.ema.update(self.model, 10_000)

    def loss(self, way: Way) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=way.precision == "bf16"):
            text = self.texts[way.packed_text]
            if not way.masked_only:
                return loss_at_all(self.model, self.latents, text, self.generator)
            # A dropped caption is shorter: then not all positions would be there, and attention would have a mask.
            dropout = CAPTION_DROPOUT if way.packed_text else 0.0
            return self.model(self.latents, text, self.generator, dropout).loss

    def kept_bytes(self, way: Way) -> int:
        """Bytes that the forward pass keeps for the backward pass, beside weights."""
        with self._laid_out(way), saved_storages(self.model) as kept:
            self.loss(way)
        return sum(kept.values())

    @contextmanager
    def _laid_out(self, way: Way) -> Iterator[None]:
        """The model with a way's dropout, checkpointing and compilation, as ``training`` fits it to these."""
        trainer = TrainerConfig(compile=way.compile, activation_checkpointing=way.checkpointing)
        prepare(self.model, self.ema.model, trainer, None)
        for block in self.blocks:
            block.attn.attention_dropout = way.attention_dropout
        if not way.quick_dropout:
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
    """The training's AdamW; or PyTorch's default choice of how to run it, as the reference leaves it."""
    built = build_optimizer(model, OptimConfig())
    if not fused:
        for group in built.param_groups:
            group["fused"] = None
    return built


def loss_at_all(model: Impact, latents: Tensor, text: TextFeatures | None, generator: torch.Generator) -> Tensor:
    """The training loss as MAR computes it: the head works at all positions, those not masked are multiplied by 0."""
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


def measure(stepper: Stepper, ways: dict[str, Way], rates: Rates, repeats: int) -> list[dict]:
    """Rows of a record, one a way."""
    kept = {name: stepper.kept_bytes(way) for name, way in ways.items()}
    for way in {way.fused: way for way in ways.values()}.values():
        stepper.step(way)  # which allocates the optimizer's state: no part of anybody's step
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):  # in turns, so that a change of the machine's load meets all of them
        for name, way in ways.items():
            stepper.step(way)  # uncounted: in a training, the step before had the same shapes, and left their memory
            times[name].append(seconds_of(functools.partial(stepper.step, way), stepper.device))
    seconds = {name: statistics.median(found) for name, found in times.items()}
    flops = stepper.batch * training_flops(stepper.model.spec, stepper.num_patches, stepper.masked)
    peak = peak_of(torch.cuda.get_device_name(stepper.device)) if stepper.device.type == "cuda" else None
    return [
        {
            "way": name,
            **dataclasses.asdict(way),
            "batch": stepper.batch,
            "masked": stepper.masked,
            "flops": flops,
            "seconds": seconds[name],
            "clips_per_second": stepper.batch / seconds[name],
            "bound_seconds": flops / rates.gemm[way.precision],
            "utilisation": flops / seconds[name] / rates.gemm[way.precision],
            "peak_utilisation": flops / seconds[name] / peak if peak and way.precision == "bf16" else None,
            "kept_bytes": kept[name],
            "peak_bytes": peak_bytes(stepper, way),
        }
        for name, way in ways.items()
    ]


def peak_bytes(stepper: Stepper, way: Way) -> int | None:
    """Most memory of a GPU during a step, both optimizers' states included; None on a CPU."""
    if stepper.device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(stepper.device)
    stepper.step(way)
    synchronize(stepper.device)
    return torch.cuda.max_memory_allocated(stepper.device)


def check_data(stepper: Stepper, folder: Path) -> None:
    """ValueError where the shards of ``folder`` are of latents that the stepper's model does not take."""
    found, _, width = LatentDataset(folder).index.latents["shape"]
    spec = stepper.model.spec
    if (found, width) != (spec.latent_channels, spec.latent_width):
        raise UserError(
            f"{folder}: latents of {found} channels and width {width}, but this model takes {spec.latent_channels} and "
            f"{spec.latent_width}: choose another --model, or leave --data out for random shards"
        )


def data_wait(stepper: Stepper, way: Way, folder: Path, workers: int, steps: int) -> dict:
    """A row: the share of training in which the next batch is waited for, reading the shards of ``folder``."""
    dataset = LatentDataset(folder)
    stream = SampleStream(dataset.sizes, seed=0)
    sampler = SlotSampler(stream, stepper.batch, start=0, steps_done=0, max_steps=steps + 1)
    batches = iter(latent_loader(dataset, sampler, workers))
    next(batches)  # the workers are up
    waited, start = 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        moments = next(batches)["moments"].to(stepper.device)
        waited += time.perf_counter() - asked
        stepper.latents = stepper.model.whiten(moments, stepper.generator)
        stepper.step(way)
        synchronize(stepper.device)
    total = time.perf_counter() - start
    return {"workers": workers, "batch": stepper.batch, "wait_share": waited / total, "seconds": total / steps}
