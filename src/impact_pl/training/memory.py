"""Estimate the memory of a training run before it starts: what is stored exactly, activations from a small run."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from impact_pl.config import LoraConfig
from impact_pl.models.impact import Impact
from impact_pl.models.spec import ImpactSpec
from impact_pl.text_encoders.base import TextFeatures
from impact_pl.training.lora import add_adapters

FLOAT = 4  # bytes; weights, gradients, optimizer state and average are float32 in every precision


@dataclass(frozen=True)
class Memory:
    """Bytes that a training run holds at the peak of a step, without the libraries' own."""

    parameters: int
    gradients: int
    optimizer: int  # AdamW's two moments
    average: int  # the exponential moving average of the weights
    activations: int  # kept for the backward pass

    @property
    def total(self) -> int:
        return sum(vars(self).values())


def estimate_memory(
    spec: ImpactSpec, batch_size: int, lora: LoraConfig | None = None, activation_checkpointing: bool = False
) -> Memory:
    """Estimate the memory of a training step in float32; bf16-mixed needs about half of the activations.

    Args:
        spec: The model.
        batch_size: Clips per process and micro-batch.
        lora: Adapters to train instead of all weights.
        activation_checkpointing: Keep only the input of each block.
    """
    with torch.device("meta"):
        model = Impact(spec)
    if lora is not None and lora.rank:
        add_adapters(model, lora)
    all_bytes = FLOAT * sum(p.numel() for p in model.parameters())
    trained = FLOAT * sum(p.numel() for p in model.parameters() if p.requires_grad)
    shallow, deep = (_activations(replace(spec, model=replace(spec.model, depth=depth))) for depth in (1, 2))
    per_block = deep - shallow  # of both stages
    rest = shallow - per_block
    if activation_checkpointing:
        per_block, rest = _block_inputs(spec), rest + per_block  # one block at a time is computed again
    per_clip = rest + spec.model.depth * per_block
    return Memory(all_bytes, trained, 2 * trained, all_bytes, batch_size * per_clip)


def _block_inputs(spec: ImpactSpec) -> int:
    positions = num_patches(spec) + spec.text_length
    return 2 * FLOAT * positions * spec.model.dim


def num_patches(spec: ImpactSpec) -> int:
    """Compute N of the training clips."""
    frames, width = spec.patch_shape
    return spec.num_frames // frames * (spec.latent_width // width)


def _activations(spec: ImpactSpec) -> int:
    """Sum the bytes that autograd keeps for one clip, each storage once and without the weights."""
    spec = replace(spec, model=replace(spec.model, dropout=0.0, attention_dropout=0.0))
    torch.manual_seed(0)
    model = Impact(spec).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}  # tensors are held, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    shape = (1, spec.latent_channels, spec.num_frames, spec.latent_width)
    text = {name: torch.zeros(1, *size) for name, size in spec.text_features.items()}
    mask = torch.ones(1, spec.text_length, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        generator = torch.Generator().manual_seed(0)
        model.loss(torch.zeros(shape), TextFeatures(text, mask) if text else None, generator)
    return sum(size for size, _ in kept.values())
