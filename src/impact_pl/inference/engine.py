"""Compute what decoding asks of a model (``decoding.engine``): as the reference does, or fused.

Dimensions: B clips, N patches, K positions asked for, P numbers a patch, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from impact_pl.config import DecodingConfig
from impact_pl.inference.cuda_graphs import Graphed
from impact_pl.inference.diffusion_loop import DiffusionLoop
from impact_pl.inference.fast_linear import inference_copy
from impact_pl.inference.reuse import ReusingEncoder
from impact_pl.models.condition import Condition, concatenated, packed
from impact_pl.models.heads.base import Head, Sampler, Sampling
from impact_pl.models.heads.diffusion import DiffusionHead
from impact_pl.models.impact import Impact
from impact_pl.models.latent_encoder import LatentEncoder
from impact_pl.precision import dtype_of
from impact_pl.randomness import Generators
from impact_pl.sampling.decoding import check_decoding
from impact_pl.sampling.masking import take

GRAPHED_TEXT = 16  # text lengths are rounded up to it on CUDA: each is another graph of every iteration


class Encoder(Protocol):
    """(patches (B, N, P), mask (B, N), cond of B | None, positions (B, K), number kept) -> hidden (B, K, D)."""

    def __call__(
        self, patches: Tensor, mask: Tensor, cond: Condition | None, positions: Tensor, num_kept: int
    ) -> Tensor: ...


@dataclass(frozen=True)
class Engine:
    """A model's encoder and head, or what computes the same in their place.

    Attributes:
        reusing: makes ``encode`` for one decoding, with ``encoder_reuse``; None: this engine computes everything.
        text_multiple: only the text positions that are there are computed, as many as the longest caption has rounded
            up to a multiple of this; None: all are.
        guides_always: guidance has its second half even where its scale is 1 and it changes nothing.
        autocast: the type of matrix products on the model's own float32 weights; None where the weights decide.
    """

    encode: Encoder
    head: Sampler
    reusing: Callable[[int], Encoder] | None = None
    text_multiple: int | None = 1
    guides_always: bool = False
    autocast: torch.dtype | None = None


def reference(model: Impact, dtype: torch.dtype) -> Engine:
    """The reference's operations (LTH14/mar) in their order: the yardstick, for speed and for what comes out.

    The encoder runs at all positions, of the text too, guidance has always both halves, and the head computes in every
    diffusion step what depends on condition and timestep only. bf16 is autocast, as there.
    """

    def encode(patches: Tensor, mask: Tensor, cond: Condition | None, positions: Tensor, num_kept: int) -> Tensor:
        return take(model.encoder(patches, mask, cond), positions)

    autocast = None if dtype == torch.float32 else dtype
    return Engine(encode, model.head, text_multiple=None, guides_always=True, autocast=autocast)


def fused(model: Impact, dtype: torch.dtype) -> Engine:
    """The same numbers up to the rounding of ``dtype``, with nothing computed twice or for nothing.

    Weights are a snapshot: cast and packed once, here (they take their memory a second time).
    """
    encoder = cast(LatentEncoder, inference_copy(model.encoder, dtype))

    def with_cast(run: Encoder) -> Encoder:
        def encode(patches: Tensor, mask: Tensor, cond: Condition | None, positions: Tensor, num_kept: int) -> Tensor:
            return run(patches, mask, cond and cond.to(dtype), positions, num_kept)

        return encode

    def reusing(period: int) -> Encoder:
        return with_cast(ReusingEncoder(encoder, period))

    head = fast_head(model.head, dtype)
    if encoder.mask_embed.is_cuda:
        return Engine(with_cast(_graphed(encoder)), head, reusing, text_multiple=GRAPHED_TEXT)
    return Engine(with_cast(encoder), head, reusing)


def fast_head(head: Head, dtype: torch.dtype) -> Sampler:
    """The head's draws, up to the rounding of ``dtype``, from a snapshot of its weights that samples faster."""
    if type(head) is DiffusionHead:  # a subclass has blocks that the loop does not know
        return DiffusionLoop(head, dtype)
    return cast(Sampler, inference_copy(head, dtype))


def _graphed(encoder: LatentEncoder) -> Encoder:
    """The encoder in CUDA graphs, which take tensors one by one: a condition comes as its parts, or without any."""

    def run(patches: Tensor, mask: Tensor, positions: Tensor, num_kept: int, *parts: Tensor | None) -> Tensor:
        cond = Condition(*cast("tuple[Tensor]", parts)) if parts else None
        return encoder(patches, mask, cond, positions, num_kept)

    graphed = Graphed(run)

    def encode(patches: Tensor, mask: Tensor, cond: Condition | None, positions: Tensor, num_kept: int) -> Tensor:
        return graphed(patches, mask, positions, num_kept, *(cond or ()))

    return encode


ENGINES: dict[str, Callable[[Impact, torch.dtype], Engine]] = {"reference": reference, "fused": fused}


def build_engine(model: Impact, decoding: DecodingConfig) -> Engine:
    """The engine that ``decoding`` names, for the weights that the model has now.

    Note: weights that are sharded over processes (FSDP2, while training) are computed with as they are gathered, by
    ``reference``: a snapshot would be the whole model in every process. It computes everything, whatever
    ``encoder_reuse``.

    Raises:
        ValueError: what :func:`check_decoding` refuses.
    """
    check_decoding(decoding, model.spec.model.num_timesteps)
    device = next(model.parameters()).device
    is_sharded = any(isinstance(weight, DTensor) for weight in model.parameters())
    with torch.no_grad():
        return ENGINES["reference" if is_sharded else decoding.engine](model, dtype_of(decoding.precision, device))


def weights_version(model: nn.Module) -> tuple:
    """Another value whenever a weight of ``model`` is replaced, moved or written to (in inference mode: unnoticed)."""
    return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters())


@dataclass(frozen=True)
class Bound:
    """An engine with the conditions of a batch: the callables that :func:`impact_pl.sampling.decoding.decode` takes."""

    encoder: Encoder
    head: Sampler
    guides_always: bool
    cond: Condition | None  # of B clips
    both: Condition | None  # of 2B, with the null condition; None: there is nothing to guide with
    decoding: DecodingConfig
    generator: Generators

    def encode(
        self, patches: Tensor, mask: Tensor, positions: Tensor, num_kept: int, guided: bool
    ) -> tuple[Tensor, Tensor | None]:
        guided = guided or (self.guides_always and self.decoding.guidance_scale != 1)
        if self.both is None or not guided:
            return self.encoder(patches, mask, self.cond, positions, num_kept).float(), None
        patches, mask, positions = patches.repeat(2, 1, 1), mask.repeat(2, 1), positions.repeat(2, 1)
        hidden, null_hidden = self.encoder(patches, mask, self.both, positions, num_kept).float().chunk(2)
        return hidden, null_hidden

    def sample(
        self, hidden: Tensor, null_hidden: Tensor | None, guidance_scale: float, num_diffusion_steps: int
    ) -> Tensor:
        decoding = self.decoding
        sampling = Sampling(
            guidance_scale, num_diffusion_steps, decoding.temperature, decoding.min_alpha_bar, decoding.solver
        )
        return self.head.sample(hidden, null_hidden, sampling, self.generator)

    def propose(
        self, hidden: Tensor, null_hidden: Tensor | None, guidance_scale: float
    ) -> tuple[Tensor | None, Tensor]:
        sampling = Sampling(guidance_scale, temperature=self.decoding.temperature)
        return cast(Head, self.head).propose(hidden, null_hidden, sampling, self.generator)


def bind(
    engine: Engine, cond: Condition | None, null: Condition | None, decoding: DecodingConfig, generator: Generators
) -> Bound:
    """The engine for one decoding; with ``encoder_reuse``, where the engine can reuse.

    ``cond`` of B clips, and the null condition of as many to guide with, None where there is no other one.
    """
    both = None if cond is None or null is None else concatenated(cond, null)
    if engine.text_multiple is not None:
        cond, both = packed(cond, engine.text_multiple), packed(both, engine.text_multiple)
    encoder = engine.encode
    if decoding.encoder_reuse > 1 and engine.reusing is not None:
        encoder = engine.reusing(decoding.encoder_reuse)
    return Bound(encoder, engine.head, engine.guides_always, cond, both, decoding, generator)
