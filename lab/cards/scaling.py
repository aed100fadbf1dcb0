"""What a training needs of each rank, before it is started: memory, and bytes sent in a step (docs/scaling.md).

Numbers of parameters P are counted, activations are measured on two small depths, and the rest is arithmetic on 4-byte
numbers: weights, gradients, AdamW's two moments and the average are float32 under every strategy and precision.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from impact_pl.config import MaskRatioConfig, ModelConfig
from impact_pl.models.impact import Impact
from impact_pl.models.spec import ImpactSpec
from impact_pl.training.strategies import sharded_blocks

BYTES = 4  # float32
STRATEGIES = ("ddp", "zero1", "zero2", "fsdp2")
MASK_RATIOS = (0.7, 1.0)  # ends of the range: most patches in Enc1, most rows in the head


@dataclass
class Sizes:
    """Numbers of parameters: all, of the largest block that is sharded by itself, and of what is in no block."""

    total: int
    block: int
    rest: int


def count_parameters(spec: ImpactSpec) -> Sizes:
    """Of the model that ``spec`` means, without making its weights."""
    with torch.device("meta"):
        model = Impact(spec)
    blocks = [sum(p.numel() for p in block.parameters()) for block in sharded_blocks(model)]
    total = sum(p.numel() for p in model.parameters())
    return Sizes(total, max(blocks), total - sum(blocks))


def memory(sizes: Sizes, strategy: str, ranks: int) -> dict[str, float]:
    """Bytes of one rank that do not depend on the batch: kind -> bytes.

    DDP keeps all on every rank; ZeRO 1 shards the optimizer's state and adds its own shard of the weights, ZeRO 2
    the gradients as well; FSDP2 shards everything, the average too, and gathers what it computes on: the weights of
    two blocks (one ahead) and all that is in no block, and one block's gradients before they are reduced.
    """
    whole, shard = BYTES * sizes.total, BYTES * sizes.total / ranks
    if strategy == "ddp":
        return {"weights": whole, "gradients": whole, "optimizer": 2 * whole, "average": whole, "gathered": 0}
    if strategy in ("zero1", "zero2"):
        gradients = whole if strategy == "zero1" else shard
        return {"weights": whole, "gradients": gradients, "optimizer": 3 * shard, "average": whole, "gathered": 0}
    assert strategy == "fsdp2", strategy
    gathered = BYTES * (2 * sizes.rest + 3 * sizes.block) if ranks > 1 else 0
    return {"weights": shard, "gradients": shard, "optimizer": 2 * shard, "average": shard, "gathered": gathered}


def sent(sizes: Sizes, strategy: str, ranks: int) -> float:
    """Bytes that one rank sends in an optimizer step of one micro-batch, by ring algorithms.

    An all-reduce sends 2 (R-1)/R of its bytes, a gather or a scatter half of that. DDP: one all-reduce of the
    gradients. ZeRO: gradients to their owners, weights back. FSDP2: weights before the forward pass, once more before
    the backward pass (except what is in no block), and gradients to their owners. All but FSDP2 send only in the last
    micro-batch of an accumulation; FSDP2 gathers weights in each.
    """
    part = (ranks - 1) / ranks * BYTES
    if strategy in ("ddp", "zero1", "zero2"):
        return 2 * part * sizes.total
    assert strategy == "fsdp2", strategy
    return 3 * part * sizes.total


@dataclass
class Activations:
    """Bytes kept for the backward pass: ``once`` (casts of weights, constants) and for each clip of the batch."""

    once: float
    clip: float


def activations(spec: ImpactSpec, num_frames: int, precision: str) -> Activations:
    """Of one micro-batch of clips of ``num_frames`` latent frames: more of the two MASK_RATIOS.

    Measured on models of the same widths with one and two blocks in each stack, and continued to ``spec``'s depth: all
    blocks of a stack keep equally much.
    """
    depth = spec.model.depth
    results = []
    for ratio in MASK_RATIOS:
        mask_ratio = MaskRatioConfig(kind="fixed", value=ratio)
        kept = {
            (d, batch): _saved_bytes(_with(spec, depth=d, mask_ratio=mask_ratio), batch, num_frames, precision)
            for d in (1, 2)
            for batch in (1, 2)
        }
        clip = {d: kept[d, 2] - kept[d, 1] for d in (1, 2)}
        once = {d: kept[d, 1] - clip[d] for d in (1, 2)}
        results.append(Activations(*(values[1] + (depth - 1) * (values[2] - values[1]) for values in (once, clip))))
    return max(results, key=lambda result: result.clip)


def _with(spec: ImpactSpec, **changes) -> ImpactSpec:
    return dataclasses.replace(spec, model=dataclasses.replace(spec.model, **changes))


def _saved_bytes(spec: ImpactSpec, batch: int, num_frames: int, precision: str) -> int:
    """Bytes that autograd keeps after one forward pass of the loss, weights themselves not counted.

    With something at all text positions, which is the most that captions can take.
    """
    model = Impact(_with(spec, text_padding=-1))
    latents = torch.zeros(batch, spec.latent_channels, num_frames, spec.latent_width)
    bf16 = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
    with bf16, saved_storages(model) as kept:
        model(latents, None, torch.Generator().manual_seed(0))
    return sum(kept.values())


@contextmanager
def saved_storages(model: nn.Module) -> Iterator[dict[int, int]]:
    """Fills a dict address -> bytes with the storages that autograd saves meanwhile, ``model``'s weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # or an address might be given out a second time

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)
        return tensor.detach()  # an output that kept itself, with its history, would never be freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def planned_spec(model: ModelConfig) -> ImpactSpec:
    """``model`` on AudioLDM's latents and the paper's text (CLAP and 77 positions of T5) if it has their patch size,
    else on the built-in codec's latents with the built-in text encoder. In both, 10.24 s are 256 latent frames.
    """
    if model.patch_size == 4:
        return ImpactSpec(model, 8, 16, [0.0] * 8, 1.0, text_features={"clap": (1, 512), "t5": (77, 1024)})
    return ImpactSpec(model, 64, 1, [0.0] * 64, 1.0, text_features={"minilm": (32, 384)})
