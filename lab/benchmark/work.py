"""How much there is to do: floating-point operations and bytes of each part, from the model's shapes; and the time that
they take at least.

Counted is what the algorithm needs, not what a program does: the last block of Enc2 works at the positions that are
revealed alone (its keys and values are those of all), guidance's second half is there only where beta is not 1, weights
are read once a pass. Matrix products and attention, 2 operations a multiply-add; norms and activations are left out.

Dimensions: B clips, N patches of P numbers, L text positions, L' of them that are computed, S positions of a stack,
D width, V width of the head, K positions revealed in an iteration, T iterations.
"""

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from impact_pl.config import DecodingConfig, ModelConfig
from impact_pl.errors import UserError
from impact_pl.models.heads.diffusion import NUM_FREQUENCIES
from impact_pl.models.spec import ImpactSpec
from impact_pl.sampling.decoding import decode
from lab.benchmark.machine import Rates

BYTES = {"32-true": 4, "bf16": 2}  # precision -> of a number
COUNTED = ("diffusion", "consistency")  # heads
# Tokens of a batch's captions, one after the other. The first and their mean are those of "a dog barks while rain falls
# on a tin roof" in T5's pieces; AudioCaps' captions have as many words on average. How unequal they are is assumed.
CAPTION_TOKENS = (14, 10, 18, 12, 16, 8, 22, 12)


class Iteration(NamedTuple):
    """One iteration of decoding, a clip: patches known before it, revealed by it; guidance; steps of the head."""

    kept: int
    revealed: int
    guidance_scale: float
    num_diffusion_steps: int

    @property
    def guided(self) -> bool:
        return self.guidance_scale != 1


def iterations_of(config: DecodingConfig, num_patches: int) -> list[Iteration]:
    """What ``config`` does to a clip, found by decoding one with stand-ins for encoder and head.

    Raises:
        ValueError: an order or a reveal that looks at drafts: how many there are depends on what is drawn.
    """
    if config.order != "random" or config.reveal == "adaptive":
        raise UserError(
            f"order = {config.order!r}, reveal = {config.reveal!r}: work is counted for order = 'random' and reveals "
            "that are known beforehand."
        )
    found: list[Iteration] = []
    kept: list[int] = []

    def encode(patches, mask, positions, num_kept, guided):
        kept.append(num_kept)
        hidden = torch.zeros(1, positions.shape[1], 1)
        return hidden, hidden if guided else None

    def sample(hidden, null_hidden, guidance_scale, num_diffusion_steps):
        found.append(Iteration(kept[-1], hidden.shape[1], guidance_scale, num_diffusion_steps))
        return torch.zeros(1, hidden.shape[1], 1)

    decode(encode, sample, torch.zeros(1, num_patches, 1), config, torch.Generator().manual_seed(0))
    return found


@dataclass(frozen=True)
class Work:
    """``flops``; ``bytes`` that have to be read or written; ``working_set``, those that are read again each time."""

    flops: float = 0.0
    bytes: float = 0.0
    working_set: float = 0.0

    def seconds(self, rates: Rates, precision: str) -> tuple[float, float]:
        """What arithmetic takes at least, and what memory takes at least."""
        return self.flops / rates.gemm[precision], self.bytes / rates.bandwidth_of(self.working_set)


def linear(rows: int, inputs: int, outputs: int) -> int:
    """Operations of a linear layer."""
    return 2 * rows * inputs * outputs


def attention(queries: int, keys: int, width: int) -> int:
    """Operations of attention itself: scores and weighted sums, all heads."""
    return 4 * queries * keys * width


def block(config: ModelConfig, positions: int, queries: int | None = None, keys: int | None = None) -> int:
    """Operations of a transformer block over ``positions``.

    Args:
        queries: where its output is wanted; None: at all positions.
        keys: what is attended to, with those kept from earlier passes; None: the positions.
    """
    dim, hidden = config.dim, int(config.dim * config.mlp_ratio)
    queries = positions if queries is None else queries
    keys_values = linear(positions, dim, 2 * dim)
    rest = linear(queries, dim, 2 * dim) + 2 * linear(queries, dim, hidden)  # queries, projection; MLP
    return keys_values + rest + attention(queries, positions if keys is None else keys, dim)


def patch_dim(spec: ImpactSpec) -> int:
    """P."""
    return spec.latent_channels * math.prod(spec.patch_shape)


def text_positions(spec: ImpactSpec) -> tuple[int, int]:
    """L' of a caption of average length, and of the null condition."""
    caption = sum(min(length, CAPTION_TOKENS[0]) for length, _ in spec.text_features.values())
    return min(caption + spec.num_padding, spec.text_length), spec.num_padding


def encoder_flops(
    spec: ImpactSpec, num_patches: int, kept: int, revealed: int | None = None, num_text: int | None = None
) -> int:
    """Of one clip's pass.

    Args:
        revealed: positions asked for; None: as the reference engine works, all to the end.
        num_text: L'; None: a caption's.
    """
    config = spec.model
    num_text = text_positions(spec)[0] if num_text is None else num_text
    inner, outer = num_text + kept, num_text + num_patches
    ends = linear(kept, patch_dim(spec), config.dim) + linear(inner, config.dim, config.dim)
    enc1 = config.depth * block(config, inner)
    return ends + enc1 + (config.depth - 1) * block(config, outer) + block(config, outer, revealed)


def reused_flops(spec: ImpactSpec, num_patches: int, kept: int, revealed: int, new: int, num_text: int) -> int:
    """Of one clip's pass of a ``ReusingEncoder`` that computes ``new`` patches and the positions asked for alone."""
    config = spec.model
    inner, outer = num_text + kept, num_text + num_patches
    ends = linear(new, patch_dim(spec), config.dim) + linear(new, config.dim, config.dim)
    enc2 = [block(config, new + revealed, queries, outer) for queries in (None, revealed)]
    return ends + config.depth * block(config, new, keys=inner) + (config.depth - 1) * enc2[0] + enc2[1]


def new_patches(plan: list[Iteration], period: int) -> list[int | None]:
    """For each pass of a ``ReusingEncoder``, the patches known since the one before; None where it computes all."""
    found: list[int | None] = [None for _ in plan[:1]]
    age = 0
    for before, it in itertools.pairwise(plan):
        age += 1
        if age >= period or it.guided != before.guided:
            age = 0
            found.append(None)
        else:
            found.append(it.kept - before.kept)
    return found


def encoder_weights(spec: ImpactSpec) -> int:
    """Numbers in its matrices."""
    config = spec.model
    blocks = 2 * config.depth * int(config.dim**2 * (4 + 2 * config.mlp_ratio))
    return blocks + config.dim**2 + patch_dim(spec) * config.dim


def encoder_work(
    spec: ImpactSpec, precision: str, batch: int, num_patches: int, it: Iteration, new: int | None = None
) -> Work:
    """Of one iteration, guidance included; ``new`` as of :func:`new_patches`. Reading kept keys is not counted."""
    weights = encoder_weights(spec) * BYTES[precision]
    read = it.kept if new is None else new
    ends = batch * (read * patch_dim(spec) + it.revealed * spec.model.dim) * BYTES[precision]
    flops = 0
    for num_text in text_positions(spec)[: 2 if it.guided else 1]:
        if new is None:
            flops += encoder_flops(spec, num_patches, it.kept, it.revealed, num_text)
        else:
            flops += reused_flops(spec, num_patches, it.kept, it.revealed, new, num_text)
    return Work(batch * flops, weights + ends, weights)


def head_sizes(spec: ImpactSpec) -> tuple[int, int]:
    """Numbers in the matrices of the diffusion head that noisy patches pass, and in those of its modulations.

    What the consistency head has for guidance works once.
    """
    width, depth = spec.model.head_width, spec.model.head_depth
    ends = 3 if spec.model.head == "diffusion" else 2  # in; out, and the variance with it
    return patch_dim(spec) * ends * width + depth * 2 * width**2, (3 * depth + 2) * width**2


def head_flops(spec: ImpactSpec, rows: int, steps: int) -> int:
    """Of denoising so many rows in so many steps: what is done once, what once a step, and the rest."""
    width = spec.model.head_width
    loop, modulation = head_sizes(spec)
    times = linear(steps, NUM_FREQUENCIES, width) + linear(steps, width, width)
    return linear(rows, spec.model.dim, width) + times + 2 * rows * steps * (loop + modulation)


def head_work(spec: ImpactSpec, precision: str, batch: int, it: Iteration) -> Work:
    """Of one iteration's loop, guidance included.

    Modulations depend on condition and timestep only: all steps' can be made in one product, which reads their matrices
    once, but writes and reads its results; with many rows reading the matrices in each step is less.
    """
    halves = 2 if it.guided and spec.model.head == "diffusion" else 1  # the consistency head takes both halves at once
    rows = batch * it.revealed * halves
    steps, width = it.num_diffusion_steps, spec.model.head_width
    loop, modulation = head_sizes(spec)
    results = 2 * rows * steps * (3 * spec.model.head_depth + 2) * width
    noise = 2 * batch * it.revealed * steps * patch_dim(spec)  # drawn, then read
    numbers = loop * steps + min(modulation * steps, modulation + results) + noise
    return Work(head_flops(spec, rows, steps), numbers * BYTES[precision], loop * BYTES[precision])


class Parts(NamedTuple):
    """Least seconds of all iterations: by arithmetic, by memory, and by the slower of both each time."""

    flops: float
    bytes: float
    compute: float
    memory: float
    bound: float


def total(works: list[Work], rates: Rates, precision: str) -> Parts:
    """Passes wait for each other, so each has its own bound and they add up."""
    times = [work.seconds(rates, precision) for work in works]
    return Parts(
        math.fsum(work.flops for work in works),
        math.fsum(work.bytes for work in works),
        math.fsum(compute for compute, _ in times),
        math.fsum(memory for _, memory in times),
        math.fsum(max(pair) for pair in times),
    )


def check_counted(spec: ImpactSpec) -> None:
    """ValueError for a head that is not in COUNTED."""
    if spec.model.head not in COUNTED:
        raise UserError(f"model.head = {spec.model.head!r}: work is counted for {', '.join(COUNTED)} only.")


def generation(
    spec: ImpactSpec, rates: Rates, config: DecodingConfig, batch: int, num_patches: int, plan: list[Iteration]
) -> dict[str, Parts]:
    """Part -> its bound: encoder and head without guidance's second half, then what that half adds.

    Of ``config`` counts what changes the work of ``plan``'s iterations: ``precision`` and ``encoder_reuse``.

    Raises:
        ValueError: a head that is not in COUNTED.
    """
    check_counted(spec)
    precision = config.precision

    def encoder(passes: list[Iteration]) -> list[Work]:
        news = new_patches(passes, config.encoder_reuse)
        pairs = zip(passes, news, strict=True)
        return [encoder_work(spec, precision, batch, num_patches, it, new) for it, new in pairs]

    def head(loops: list[Iteration]) -> list[Work]:
        return [head_work(spec, precision, batch, it) for it in loops]

    found = {}
    unguided = [it._replace(guidance_scale=1.0) for it in plan]
    for part, count in {"encoder": encoder, "head": head}.items():
        plain = total(count(unguided), rates, precision)
        whole = total(count(plan), rates, precision)
        found[part] = plain
        found[f"{part}, guidance"] = Parts(*(a - b for a, b in zip(whole, plain, strict=True)))
    return found


def training_flops(spec: ImpactSpec, num_patches: int, masked: int) -> float:
    """Of one clip's step: forward once, backward twice that; the head at masked positions only, no recomputation."""
    config = spec.model
    rows = masked * config.diffusion_batch_mul
    loop, modulation = head_sizes(spec)
    times = linear(rows, NUM_FREQUENCIES, config.head_width) + linear(rows, config.head_width, config.head_width)
    head = linear(masked, config.dim, config.head_width) + times + 2 * rows * (loop + modulation)
    return 3.0 * (encoder_flops(spec, num_patches, num_patches - masked, masked) + head)
