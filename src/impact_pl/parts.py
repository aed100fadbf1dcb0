"""Parts that are chosen by name (codecs, text encoders): who answers to a name, and the files that a part is made of.

A name is ``KIND`` or ``KIND:ARGUMENT``, for example ``builtin`` or ``t5:/models/flan-t5-large``. A kind is one of the
project's own, one that a program has put into the same dict, or one that an installed package offers as an entry point.
Names stand in shards and checkpoints; none of them is ever evaluated as the path of a class.
"""

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

WEIGHTS = ("model", "diffusion_pytorch_model", "pytorch_model")  # stems of transformers' and diffusers' weight files
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
CHUNK_BYTES = 1 << 22


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
        source: a folder; or the id of a repository on the Hugging Face hub, which is fetched if its cache lacks it.
        needed: files that it must have.
        parts: folders in a repository that are fetched from a hub, each as ``vae/``.

    Raises:
        ValueError: neither such a folder nor such a repository, or a file is missing.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _fetch(source, parts)
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{source}: {', '.join(missing)} missing; give the whole folder of the published model")
    return folder


def _fetch(source: str, parts: Iterable[str]) -> Path:
    """Configuration, tokenizer and weights; ``.bin`` only where there are no safetensors."""
    if not HUB_ID.fullmatch(source):
        raise ValueError(f"{source}: no such folder")
    from huggingface_hub import snapshot_download

    try:
        for part in parts:
            kinds = ("json", "txt", "model", "safetensors")
            folder = Path(snapshot_download(source, allow_patterns=[f"{part}*.{kind}" for kind in kinds]))
            if not any((folder / part).glob("*.safetensors")):
                snapshot_download(source, allow_patterns=[f"{part}*.bin"])
    except (OSError, ValueError) as error:  # no network, no such repository, no such id
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"{source}: no such folder, and the hub gave nothing of that name ({first})") from error
    return folder


def full_name(kind: str, source: str) -> str:
    """The name that finds a part again from anywhere: a folder's or file's absolute path, or the id on the hub."""
    return f"{kind}:{Path(source).resolve()}" if Path(source).exists() else f"{kind}:{source}"


def is_gone(name: str) -> bool:
    """Whether a name points to an absolute path where nothing is any more."""
    path = Path(name.partition(":")[2] or name)
    return path.is_absolute() and not path.exists()


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers and diffusers load a folder's weights from: safetensors first, then ``.bin``.

    Raises:
        ValueError: none there.
    """
    for suffix in (".safetensors", ".bin"):
        for path in (folder / f"{stem}{suffix}" for stem in WEIGHTS):
            index = path.with_name(f"{path.name}.index.json")
            if path.is_file():
                return [path]
            if index.is_file():
                shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
                return [index, *(folder / name for name in shards)]
    raise ValueError(f"{folder}: no weights there (such as {WEIGHTS[0]}.safetensors)")


def files_identity(salt: str, files: Iterable[Path]) -> str:
    """16 hex digits that change with ``salt`` or with any byte of the files; their names do not matter."""
    digest = hashlib.sha256(salt.encode())
    for path in files:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def load_frozen(model_class: Any, folder: Path, **options: Any) -> Any:
    """A transformers or diffusers model from a local folder, whole, in float32, frozen.

    Neither library refuses a folder of another model: they only warn, and leave what is missing at random.

    Args:
        model_class: of one of these libraries.
        folder: with config.json and weights.
        options: of the class's ``from_pretrained``.

    Raises:
        ValueError: the weights are not this model's, or not all there.
    """
    from transformers.utils.logging import disable_progress_bar

    weight_files(folder)
    disable_progress_bar()  # of loading the weights
    try:
        model, loading = model_class.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{folder}: not a {model_class.__name__} ({str(error).splitlines()[0]})") from error
    wrong = [*loading["missing_keys"], *(str(key) for key in loading.get("mismatched_keys", []))]
    if wrong:
        raise ValueError(
            f"{folder}: not a {model_class.__name__}: {len(wrong)} of its weights are missing, such as {wrong[0]}"
        )
    return model.float().requires_grad_(False).eval()
