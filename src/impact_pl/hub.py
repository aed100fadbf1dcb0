"""Published models: the local folder of one, or one fetched from the Hugging Face hub."""

from collections.abc import Iterable
from pathlib import Path

from impact_pl.errors import UserError, first_line

HUB = "hub:"  # before the id of a repository on the Hugging Face hub


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
        raise UserError(f"{source}: no such folder; a repository on the Hugging Face hub is written {HUB}OWNER/NAME")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{source}: {', '.join(missing)} missing; give the whole folder of the published model")
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
        raise UserError(f"{source}: the Hugging Face hub gave nothing of that name ({first_line(error)})") from error
    return folder
