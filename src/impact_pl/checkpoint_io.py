"""Read published weights without running code from them: torch checkpoints, transformers and diffusers folders.

Also read and write the weight files of our own model folders, with the checksum in their config.json.
"""

import json
import logging
import pickle
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import impact_pl._torchaudio  # noqa: F401  # before transformers and diffusers, which import torchaudio
from impact_pl.errors import UserError, first_line
from impact_pl.identity import files_sha256

logger = logging.getLogger(__name__)

WEIGHTS = ("model", "diffusion_pytorch_model", "pytorch_model")  # stems of transformers' and diffusers' weight files
# Errors that torch, safetensors and transformers raise on malformed files. TypeErrors and AttributeErrors are not among
# them, since they come from a changed library rather than a damaged file.
DAMAGE = (SafetensorError, pickle.PickleError, struct.error, OSError, EOFError, RuntimeError, LookupError, ValueError)
MALFORMED = (*DAMAGE, TypeError, AttributeError, AssertionError)  # for code that interprets the content of a file
REBUILD: tuple[Any, ...] = (
    np.float64(0).__reduce__()[0],
    np.empty(0).__reduce__()[0],
)  # constructors of numpy's numbers and arrays
NUMPY: list[Any] = [  # allowed next to tensors, under the names of both numpy 1 and 2
    *(np.dtype, np.ndarray, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i8"))),
    *((make, f"numpy.{core}.multiarray.{make.__name__}") for core in ("core", "_core") for make in REBUILD),
]


def raise_if_memory(error: Exception) -> None:
    """Raise ``error`` again if it reports that memory ran out, which says nothing about the file."""
    if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
        raise error


def weight_files(folder: Path) -> list[Path]:
    """List the weight files that transformers and diffusers would load from a folder: safetensors first, then ``.bin``.

    Raises:
        UserError: There are none, or the index is damaged.
    """
    for suffix in (".safetensors", ".bin"):
        for path in (folder / f"{stem}{suffix}" for stem in WEIGHTS):
            index = path.with_name(f"{path.name}.index.json")
            if path.is_file():
                return [path]
            if index.is_file():
                try:
                    shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
                except MALFORMED as error:
                    raise UserError(f"{index}: not an index of weights ({first_line(error)})") from error
                return [index, *(folder / name for name in shards)]
    raise UserError(f"{folder}: no weights there (such as {WEIGHTS[0]}.safetensors)")


def read_checkpoint(path: Path, allowed: Iterable[Any] = ()) -> dict[str, Any]:
    """Read a published ``.pth`` or ``.pt`` file (torch's zip or legacy format) without executing code in it.

    Args:
        path: The file.
        allowed: Harmless classes that this file may contain, besides tensors, numbers, and numpy's numbers and arrays.

    Raises:
        UserError: The file is damaged, has another format, contains other objects, or is not a dict of names.
    """
    try:
        with torch.serialization.safe_globals([*NUMPY, *allowed]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except MALFORMED as error:
        raise_if_memory(error)
        with open(path, "rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"  # safetensors: the header's length, then its JSON
        why = "it is a safetensors file" if is_safetensors else first_line(error)
        raise UserError(
            f"{path}: not a checkpoint of torch that can be read safely ({why}); where you trust it, load it yourself "
            "and torch.save its state dict alone"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path}: not a checkpoint, which would be a dict of names (it holds a {_kind(content)})")
    return content


def state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Check that ``content`` of a checkpoint is a state dict: names and tensors.

    Raises:
        UserError: It is not; the message names the offending entry.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path}: where its weights should be, there is a {_kind(content)}")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise UserError(f"{path}: among its weights, {name!r} is a {_kind(value)}, not a tensor under a name")
    return content


def _kind(value: Any) -> str:
    return (
        f"dict with keys such as {next(iter(value))!r}" if isinstance(value, dict) and value else type(value).__name__
    )


def load_frozen(model_class: Any, folder: Path, **options: Any) -> Any:
    """Load a complete transformers or diffusers model from a local folder, in float32 and frozen.

    Neither library rejects a folder of another model: they only warn, and leave missing weights randomly initialised.

    Args:
        model_class: A model class of one of these libraries.
        folder: Folder with config.json and weights.
        options: Arguments for the class's ``from_pretrained``.

    Raises:
        UserError: The weights are of another model, incomplete or damaged, or the file holds more than weights (nothing
            else is unpickled).
    """
    from transformers.utils.logging import disable_progress_bar

    weight_files(folder)
    disable_progress_bar()  # while loading the weights
    try:
        model, loading = model_class.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    except DAMAGE as error:
        raise_if_memory(error)
        raise UserError(f"{folder}: not a readable {model_class.__name__} ({first_line(error)})") from error
    wrong = [*loading["missing_keys"], *(str(key) for key in loading.get("mismatched_keys", []))]
    if wrong:
        raise UserError(
            f"{folder}: not a {model_class.__name__}: {len(wrong)} of its weights are missing, such as {wrong[0]}"
        )
    return model.float().requires_grad_(False).eval()


class Uninitialised(TorchFunctionMode):
    """Context in which modules are built without drawing initial weights, because a file's weights replace them."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__ or func in (Tensor.normal_, Tensor.uniform_):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def halved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights to half precision: float16, which is more precise, or bfloat16 if a value exceeds 65,504.

    Other dtypes are unchanged. ``load_state_dict`` converts back without rounding, so every load gives the same float32
    numbers.
    """
    floating = {name: value for name, value in weights.items() if value.is_floating_point()}
    largest = max(value.abs().max().item() for value in floating.values())
    dtype = torch.float16 if largest <= torch.finfo(torch.float16).max else torch.bfloat16
    return weights | {name: value.to(dtype) for name, value in floating.items()}


def save_weights(weights: dict[str, Tensor], path: Path) -> str:
    """Write a safetensors file with the usual permissions, and return its SHA-256."""
    path.touch()
    mode = path.stat().st_mode
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, path)
    path.chmod(mode)  # safetensors makes it readable by its owner only
    return files_sha256([path])


def check_weights(path: Path, sha256: str) -> None:
    """Check that a weight file still has the bytes that :func:`save_weights` wrote.

    Raises:
        UserError: The bytes differ.
    """
    if files_sha256([path]) != sha256:
        raise UserError(
            f"{path} is damaged, or not of this folder: its SHA-256 is not weights_sha256 of the config.json there; "
            "copy or export the folder again"
        )


def load_weights(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """Read a file written by :func:`save_weights`; ``sha256`` is None in folders of earlier versions.

    Raises:
        UserError: The file has changed since it was written, or is not a safetensors file.
    """
    if sha256 is None:
        logger.warning("%s cannot be checked: its config.json notes no weights_sha256", path)
    else:
        check_weights(path, sha256)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({first_line(error)})") from error
