"""Parts that are chosen by name (codecs, text encoders): who answers to a name, and the files that a part is made of.

A name is ``KIND`` or ``KIND:ARGUMENT``, for example ``builtin`` or ``t5:/models/flan-t5-large``. A kind is one of the
project's own, one that a program has put into the same dict, or one that an installed package offers as an entry point.
Names stand in shards and checkpoints; none of them is ever evaluated as the path of a class.
"""

import hashlib
import inspect
import json
import pickle
import struct
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

WEIGHTS = ("model", "diffusion_pytorch_model", "pytorch_model")  # stems of transformers' and diffusers' weight files
HUB = "hub:"  # before the id of a repository on the Hugging Face hub
CHUNK_BYTES = 1 << 22
DAMAGE = (  # what torch, safetensors and transformers raise on files that are not what they should be
    *(SafetensorError, pickle.PickleError, struct.error, OSError, EOFError, RuntimeError),
    *(LookupError, ValueError, TypeError, AttributeError, AssertionError),
)
REBUILD: tuple[Any, ...] = (
    np.float64(0).__reduce__()[0],
    np.empty(0).__reduce__()[0],
)  # numpy's makers of numbers and arrays
NUMPY: list[
    Any
] = [  # what may stand in a checkpoint beside tensors; the makers under the names that numpy 1 and 2 wrote
    *(np.dtype, np.ndarray, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i8"))),
    *((make, f"numpy.{core}.multiarray.{make.__name__}") for core in ("core", "_core") for make in REBUILD),
]


def known_kinds(own: dict[str, Any], group: str) -> list[str]:
    """The kinds of ``own``, and those of installed packages' entry points in ``group``."""
    return list(dict.fromkeys([*own, *(entry.name for entry in entry_points(group=group))]))


def build_part(what: str, own: dict[str, Callable[..., Any]], group: str, name: str) -> Any:
    """Make the part that ``name`` calls for.

    Args:
        what: what it is, for messages.
        own: kind -> what makes it; called with the argument where the name has one, else with nothing.
        group: of entry points that offer further kinds.
        name: ``KIND`` or ``KIND:ARGUMENT``.

    Raises:
        ValueError: no such kind, or one that takes no argument, or that needs one.
    """
    kind, colon, argument = name.partition(":")
    make = own.get(kind)
    if make is None:
        offered = [entry for entry in entry_points(group=group) if entry.name == kind]
        if not offered:
            raise ValueError(f"no {what} '{name}': choose one of {', '.join(known_kinds(own, group))}")
        make = offered[0].load()
    given = [argument] if colon else []
    try:
        inspect.signature(make).bind(*given)
    except TypeError as error:
        wanted = f"{kind}:ARGUMENT, it needs one" if not colon else f"{kind} alone, it takes no argument"
        raise ValueError(f"{what} '{name}': write {wanted}") from error
    return make(*given)


def model_folder(source: str, needed: Iterable[str], parts: Iterable[str] = ("",)) -> Path:
    """The local folder of a published model.

    Args:
        source: a folder; or ``hub:ID``, a repository on the Hugging Face hub, which is fetched if its cache lacks it.
        needed: files that it must have.
        parts: folders in a repository that are fetched from a hub, each as ``vae/``.

    Raises:
        ValueError: neither such a folder nor such a repository, or a file is missing.
    """
    folder = _fetch(source, parts) if source.startswith(HUB) else Path(source)
    if not folder.is_dir():
        raise ValueError(f"{source}: no such folder; a repository on the Hugging Face hub is written {HUB}OWNER/NAME")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{source}: {', '.join(missing)} missing; give the whole folder of the published model")
    return folder


def _fetch(source: str, parts: Iterable[str]) -> Path:
    """Configuration, tokenizer and weights; ``.bin`` only where there are no safetensors."""
    from huggingface_hub import snapshot_download

    name = source.removeprefix(HUB)
    try:
        for part in parts:
            kinds = ("json", "txt", "model", "safetensors")
            folder = Path(snapshot_download(name, allow_patterns=[f"{part}*.{kind}" for kind in kinds]))
            if not any((folder / part).glob("*.safetensors")):
                snapshot_download(name, allow_patterns=[f"{part}*.bin"])
    except (OSError, ValueError) as error:  # no network, no such repository, no such id
        raise ValueError(f"{source}: the Hugging Face hub gave nothing of that name ({first_line(error)})") from error
    return folder


def full_name(kind: str, source: str) -> str:
    """The name that finds a part again from anywhere: a folder's or file's absolute path, or ``hub:ID`` as it is."""
    return f"{kind}:{source}" if source.startswith(HUB) else f"{kind}:{Path(source).resolve()}"


def is_gone(name: str) -> bool:
    """Whether a name points to an absolute path where nothing is any more."""
    path = Path(name.partition(":")[2] or name)
    return path.is_absolute() and not path.exists()


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers and diffusers load a folder's weights from: safetensors first, then ``.bin``.

    Raises:
        ValueError: none there, or a damaged index.
    """
    for suffix in (".safetensors", ".bin"):
        for path in (folder / f"{stem}{suffix}" for stem in WEIGHTS):
            index = path.with_name(f"{path.name}.index.json")
            if path.is_file():
                return [path]
            if index.is_file():
                try:
                    shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
                except DAMAGE as error:
                    raise ValueError(f"{index}: not an index of weights ({first_line(error)})") from error
                return [index, *(folder / name for name in shards)]
    raise ValueError(f"{folder}: no weights there (such as {WEIGHTS[0]}.safetensors)")


def files_sha256(files: Iterable[Path], salt: str = "") -> str:
    """SHA-256 of ``salt`` and the files' bytes, one after the other, in hex digits."""
    digest = hashlib.sha256(salt.encode())
    for path in files:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def files_identity(salt: str, files: Iterable[Path]) -> str:
    """16 hex digits that change with ``salt`` or with any byte of the files; their names do not matter."""
    return files_sha256(files, salt)[:16]


def tensors_identity(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits that change with any number or name of a state dict."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def first_line(error: Exception) -> str:
    """Of what an error of another library says; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def read_checkpoint(path: Path, allowed: Iterable[Any] = ()) -> dict[str, Any]:
    """A published ``.pth`` or ``.pt`` file, in torch's zip format or the older one, read without running code in it.

    Args:
        path: the file.
        allowed: harmless classes that this file may name besides tensors, numbers, and numpy's numbers and arrays.

    Raises:
        ValueError: it is damaged, of another format, holds other things than these, or is no dict of names.
    """
    try:
        with torch.serialization.safe_globals([*NUMPY, *allowed]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        with open(path, "rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"  # its header's length, then the header in JSON
        why = "it is a safetensors file" if is_safetensors else first_line(error)
        raise ValueError(
            f"{path}: not a checkpoint of torch that can be read safely ({why}); where you trust it, load it yourself "
            "and torch.save its state dict alone"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path}: not a checkpoint, which would be a dict of names (it holds a {_kind(content)})")
    return content


def state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """``content`` of a checkpoint, if it is a state dict: names and tensors.

    Raises:
        ValueError: it is not; the message names what does not belong.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{path}: where its weights should be, there is a {_kind(content)}")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ValueError(f"{path}: among its weights, {name!r} is a {_kind(value)}, not a tensor under a name")
    return content


def _kind(value: Any) -> str:
    return (
        f"dict with keys such as {next(iter(value))!r}" if isinstance(value, dict) and value else type(value).__name__
    )


def load_frozen(model_class: Any, folder: Path, **options: Any) -> Any:
    """A transformers or diffusers model from a local folder, whole, in float32, frozen.

    Neither library refuses a folder of another model: they only warn, and leave what is missing at random.

    Args:
        model_class: of one of these libraries.
        folder: with config.json and weights.
        options: of the class's ``from_pretrained``.

    Raises:
        ValueError: the weights are not this model's, not all there, damaged, or more than weights (nothing else is
            unpickled).
    """
    from transformers.utils.logging import disable_progress_bar

    weight_files(folder)
    disable_progress_bar()  # of loading the weights
    try:
        model, loading = model_class.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    except DAMAGE as error:
        raise ValueError(f"{folder}: not a {model_class.__name__} that can be read ({first_line(error)})") from error
    wrong = [*loading["missing_keys"], *(str(key) for key in loading.get("mismatched_keys", []))]
    if wrong:
        raise ValueError(
            f"{folder}: not a {model_class.__name__}: {len(wrong)} of its weights are missing, such as {wrong[0]}"
        )
    return model.float().requires_grad_(False).eval()
