"""A model's folder: where it is, and how many bits its weights have there. In memory they are always float32."""

from pathlib import Path

import torch
from torch import Tensor

BUILTIN = "builtin"  # the name of the model that comes with the package
BUILTIN_FOLDER = Path(__file__).parents[1] / "assets" / "model"
FILES = ("config.json", "model.safetensors")


def find_model(name_or_path: str | Path) -> Path:
    """The folder of ``builtin``; every other name is a path already.

    Raises:
        ValueError: this installation has no built-in model.
    """
    if str(name_or_path) != BUILTIN:
        return Path(name_or_path)
    missing = [name for name in FILES if not (BUILTIN_FOLDER / name).is_file()]
    if missing:
        raise ValueError(
            f"this installation has no built-in model ({BUILTIN_FOLDER} lacks {' and '.join(missing)}): name the "
            "folder of another with --model, such as runs/NAME/model, which impact-train writes at its end"
        )
    return BUILTIN_FOLDER


def halved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in half precision: float16, which has the finer steps; bfloat16 if one is beyond its range of 65,504.

    What is not floating-point stays as it is. ``load_state_dict`` widens again, without rounding: every load gives the
    same float32 numbers.
    """
    floating = {name: value for name, value in weights.items() if value.is_floating_point()}
    largest = max(value.abs().max().item() for value in floating.values())
    dtype = torch.float16 if largest <= torch.finfo(torch.float16).max else torch.bfloat16
    return weights | {name: value.to(dtype) for name, value in floating.items()}
