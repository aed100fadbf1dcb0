"""Low-rank adapters (LoRA, arXiv 2106.09685): small files that change a model's linear layers by W + scale * B A.

Adding them to the weights needs no package; training them does (training/lora.py). Files are those of ``peft``:
adapter_config.json and adapter_model.safetensors.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge
from pydantic import ConfigDict
from torch import Tensor, nn

from impact_pl.checkpoint_io import load_weights, save_weights
from impact_pl.errors import UserError
from impact_pl.files import read_json
from impact_pl.partial import write_whole

FILES = ("adapter_config.json", "adapter_model.safetensors")
PREFIX = "base_model.model."  # of the names in peft's files
BASE, DOWN, UP = ".base_layer.", ".lora_A.", ".lora_B."  # parts of the names of a model with adapters


@dataclass
class AdapterFile:
    """Keys of adapter_config.json that are needed here."""

    __pydantic_config__ = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    r: Annotated[int, Ge(1)]
    lora_alpha: float
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
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} has no {missing[0]}: give the folder of an adapter, such as runs/NAME/adapter")
    config = read_json(folder / FILES[0], AdapterFile, remedy="save the adapter again")
    pairs = low_rank_pairs(load_weights(folder / FILES[1], config.weights_sha256))
    weights = dict(model.named_parameters())
    for layer, (down, up) in pairs.items():
        if down.ndim != 2 or up.ndim != 2 or up.shape[1] != len(down):
            raise UserError(
                f"{folder}: layer {layer} has factors of shapes {tuple(down.shape)} and {tuple(up.shape)}, which do "
                "not belong together: save the adapter again"
            )
        weight = weights.get(f"{layer}.weight")
        if weight is None or weight.shape != (len(up), down.shape[1]):
            shape = "no such layer" if weight is None else f"its weight is {tuple(weight.shape)}"
            raise UserError(
                f"{folder}: layer {layer} of shape {(len(up), down.shape[1])} does not fit the model ({shape}): "
                "use the model that the adapter was trained on"
            )
    for layer, (down, up) in pairs.items():
        change = (strength * config.lora_alpha / config.r) * (up @ down)
        weights[f"{layer}.weight"].add_(change.to(weights[f"{layer}.weight"]))


def _is_adapter(name: str) -> bool:
    return DOWN in name or UP in name
