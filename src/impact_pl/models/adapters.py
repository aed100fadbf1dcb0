"""Low-rank adapters (LoRA, arXiv 2106.09685): small files that change a model's linear layers by W + scale * B A.

Adding them to the weights needs no package; training them does (training/lora.py). Files are those of ``peft``:
adapter_config.json and adapter_model.safetensors.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from pydantic import ConfigDict
from torch import Tensor, nn

from impact_pl.checkpoint_io import load_weights, save_weights
from impact_pl.errors import UserError
from impact_pl.files import read_json
from impact_pl.partial import write_whole

FILES = ("adapter_config.json", "adapter_model.safetensors")
PREFIX = "base_model.model."  # of the names in peft's files
VARIANTS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")  # of peft, which change the sum below
BASE, DOWN, UP = ".base_layer.", ".lora_A.", ".lora_B."  # parts of the names of a model with adapters


@dataclass
class AdapterFile:
    """Keys of adapter_config.json that are needed here."""

    __pydantic_config__ = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    r: Annotated[int, Ge(1), Le(1 << 16)]
    lora_alpha: float
    use_dora: bool = False
    use_rslora: bool = False
    rank_pattern: dict[str, Any] | None = field(default_factory=dict)
    alpha_pattern: dict[str, Any] | None = field(default_factory=dict)
    weights_sha256: str | None = None


def merged_weights(weights: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Add the adapters in the state dict of a model to its weights; names become those of a model without adapters."""
    merged = {name.replace(BASE, "."): weight for name, weight in weights.items() if not _is_adapter(name)}
    for layer, (down, up) in low_rank_pairs(weights).items():
        merged[f"{layer}.weight"] = merged[f"{layer}.weight"] + scale * (up @ down)
    return merged


def low_rank_pairs(weights: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Find the factors (A (r, in), B (out, r)) of each layer."""
    downs = {name.partition(DOWN)[0]: weight for name, weight in weights.items() if DOWN in name}
    ups = {name.partition(UP)[0]: weight for name, weight in weights.items() if UP in name}
    return {layer.removeprefix(PREFIX): (down, ups[layer]) for layer, down in downs.items() if layer in ups}


def save_adapter(weights: dict[str, Tensor], folder: Path, rank: int, alpha: float, targets: list[str]) -> None:
    """Write the adapters in the state dict of a model as a folder that ``peft`` reads too."""
    folder.mkdir(parents=True, exist_ok=True)
    factors = {}
    for layer, (down, up) in low_rank_pairs(weights).items():
        factors[f"{PREFIX}{layer}{DOWN}weight"], factors[f"{PREFIX}{layer}{UP}weight"] = down, up
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": targets, "bias": "none"}
    sha256 = save_weights(factors, folder / FILES[1])
    write_whole(folder / FILES[0], json.dumps(config | {"weights_sha256": sha256}, indent=1) + "\n")


@torch.no_grad()
def apply_adapter(model: nn.Module, folder: str | Path, strength: float = 1.0) -> None:
    """Add an adapter to the weights of a model, in place. Several may be added one after the other.

    Args:
        model: The model that it was trained on.
        folder: Folder of the adapter.
        strength: Factor of the change; 0: none, 1: as trained. A negative one takes an added adapter out again.

    Raises:
        UserError: It is missing or damaged, or its layers are not those of the model.
    """
    folder = Path(folder)
    config, pairs = _read_adapter(folder)
    weights, scale = dict(model.named_parameters()), strength * config.lora_alpha / config.r
    for layer, (down, up) in pairs.items():
        weight = weights.get(f"{layer}.weight")
        if weight is None or weight.shape != (len(up), down.shape[1]):
            shape = "no such layer" if weight is None else f"its weight is {tuple(weight.shape)}"
            raise UserError(
                f"{folder}: layer {layer} of shape {(len(up), down.shape[1])} does not fit the model ({shape}): "
                "use the model that the adapter was trained on"
            )
        if not (weight + _change(weight, scale, down, up)).isfinite().all():
            raise UserError(f"{folder}: layer {layer} becomes infinite at strength {strength:g}: choose about 1")
    for layer, (down, up) in pairs.items():  # only now, so that a mistake leaves the model as it was
        weight = weights[f"{layer}.weight"]
        weight.add_(_change(weight, scale, down, up))


def _change(weight: Tensor, scale: float, down: Tensor, up: Tensor) -> Tensor:
    return (scale * (up.float() @ down.float())).to(weight)


def _read_adapter(folder: Path) -> tuple[AdapterFile, dict[str, tuple[Tensor, Tensor]]]:
    """Read an adapter, and the factors of each layer; see :func:`apply_adapter`."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} has no {missing[0]}: give the folder of an adapter, such as runs/NAME/adapter")
    config = read_json(folder / FILES[0], AdapterFile, remedy="save the adapter again")
    other = [name for name in VARIANTS if getattr(config, name)]
    if other:
        raise UserError(f"{folder}: {other[0]} in {FILES[0]} is not supported: train a plain LoRA adapter")
    factors = load_weights(folder / FILES[1], config.weights_sha256)
    pairs = low_rank_pairs(factors)
    if not pairs or 2 * len(pairs) != len(factors):
        raise UserError(
            f"{folder}: {2 * len(pairs)} of {len(factors)} tensors are pairs of lora_A and lora_B of a layer, all must "
            "be: train a plain LoRA adapter of linear layers"
        )
    for layer, (down, up) in pairs.items():
        shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
        if down.ndim != 2 or up.ndim != 2 or not len(down) == up.shape[1] == config.r:
            raise UserError(
                f"{folder}: layer {layer} has factors of shapes {shapes} at rank {config.r}, which do not belong "
                "together: save the adapter again"
            )
        if not (down.is_floating_point() and up.is_floating_point()):
            raise UserError(f"{folder}: layer {layer} has factors of {down.dtype}: save them as floating point")
    return config, pairs


def _is_adapter(name: str) -> bool:
    return DOWN in name or UP in name
