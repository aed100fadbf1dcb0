"""Engines (``decoding.engine``): run a model's encoder and head for decoding, as the reference does or fused.

Dimension key: B clips, N patches, K requested positions, P numbers per patch, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

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

GRAPHED_TEXT = 16  # on CUDA, text lengths are rounded up to this, because each length needs its own graphs


class Encoder(Protocol):
    """Encoder callable: (patches (B, N, P), mask (B, N), cond, positions (B, K), num_kept) -> hidden (B, K, D)."""

    def __call__(
        self, patches: Tensor, mask: Tensor, cond: Condition | None, positions: Tensor, num_kept: int
    ) -> Tensor: ...


@dataclass(frozen=True)
class Engine:
    """Encoder and head of a model, or equivalent replacements.

    Attributes:
        encode: Encoder for one call.
        head: Sampler of patches.
        reusing: Creates the encoder of one decoding with ``encoder_reuse``. None: this engine computes everything.
        text_multiple: Compute only the text positions in use, rounded up to a multiple of this. None: compute all.
        guides_always: Whether guidance runs its second half even where the scale is 1.
        autocast: Autocast dtype of matrix products on float32 weights. None: the weights' dtype decides.
    """

    encode: Encoder
    head: Sampler
    reusing: Callable[[int], Encoder] | None = None
    text_multiple: int | None = 1
    guides_always: bool = False
    autocast: torch.dtype | None = None


def reference(model: Impact, dtype: torch.dtype) -> Engine:
    """Build the reference engine: the operations of LTH14/mar in their order, as a baseline for speed and accuracy.

    The encoder runs at all positions including text, guidance always computes both halves, and the head recomputes the
    terms that depend on condition and timestep only in every diffusion step. bf16 uses autocast, as in MAR.
    """

    def encode(patches: Tensor, mask: Tensor, cond: Condition | None, positions: Tensor, num_kept: int) -> Tensor:
        return take(model.encoder(patches, mask, cond, num_kept=num_kept), positions)

    autocast = None if dtype == torch.float32 else dtype
    return Engine(encode, model.head, text_multiple=None, guides_always=True, autocast=autocast)


def fused(model: Impact, dtype: torch.dtype) -> Engine:
    """Build the fused engine: the same results up to the rounding of ``dtype``, without redundant computation.

    It works on a snapshot of the weights, cast and packed once, which takes their memory a second time.
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
    """Return a faster sampler for the head on a snapshot of its weights, with the same draws up to rounding."""
    if type(head) is DiffusionHead:  # subclasses have blocks that the loop does not support
        return DiffusionLoop(head, dtype)
    return cast(Sampler, inference_copy(head, dtype))


def _graphed(encoder: LatentEncoder) -> Encoder:
    """Wrap the encoder in CUDA graphs. These take tensors, so a condition is passed as its parts."""

    def run(patches: Tensor, mask: Tensor, positions: Tensor, num_kept: int, *parts: Tensor | None) -> Tensor:
        cond = Condition(*cast("tuple[Tensor]", parts)) if parts else None
        return encoder(patches, mask, cond, positions, num_kept)

    graphed = Graphed(run)

    def encode(patches: Tensor, mask: Tensor, cond: Condition | None, positions: Tensor, num_kept: int) -> Tensor:
        return graphed(patches, mask, positions, num_kept, *(cond or ()))

    return encode


ENGINES: dict[str, Callable[[Impact, torch.dtype], Engine]] = {"reference": reference, "fused": fused}


def build_engine(model: Impact, decoding: DecodingConfig) -> Engine:
    """Build the engine that ``decoding`` names from the current weights of the model.

    Note: Weights sharded over processes (FSDP2, during training) always run with ``reference``, which uses them as they
    are gathered. A snapshot would hold the complete model in every process. ``encoder_reuse`` is ignored there.

    Raises:
        UserError: :func:`check_decoding` rejects the configuration.
    """
    check_decoding(decoding, model.spec.model.num_timesteps)
    device = next(model.parameters()).device
    is_sharded = any(hasattr(weight, "device_mesh") for weight in model.parameters())  # DTensor, slow to import
    with torch.no_grad():
        return ENGINES["reference" if is_sharded else decoding.engine](model, dtype_of(decoding.precision, device))


def weights_version(model: nn.Module) -> tuple:
    """Return a key that changes when a weight is replaced, moved or written to (except in inference mode)."""
    return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters())


@dataclass(frozen=True)
class Bound:
    """An engine bound to the conditions of a batch: the callables for :func:`impact_pl.sampling.decoding.decode`."""

    encoder: Encoder
    head: Sampler
    guides_always: bool
    cond: Condition | None  # of B clips
    both: Condition | None  # of 2B clips, with the null condition; None: no guidance
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
            guidance_scale,
            num_diffusion_steps,
            decoding.temperature,
            decoding.min_alpha_bar,
            decoding.solver,
            decoding.max_rms,
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
    """Bind the engine to one decoding, with ``encoder_reuse`` if the engine supports it.

    ``cond`` and ``null`` (the null condition for guidance, or None) have B clips each.
    """
    both = None if cond is None or null is None else concatenated(cond, null)
    if engine.text_multiple is not None:
        cond, both = packed(cond, engine.text_multiple), packed(both, engine.text_multiple)
    encoder = engine.encode
    if decoding.encoder_reuse > 1 and engine.reusing is not None:
        encoder = engine.reusing(decoding.encoder_reuse)
    return Bound(encoder, engine.head, engine.guides_always, cond, both, decoding, generator)
