"""Locate published models: local folders, or repositories on the Hugging Face hub."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from impact_pl.errors import UserError, first_line

HUB = "hub:"  # prefix of a repository id on the Hugging Face hub


_may_download = ContextVar("may_download", default=True)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Use only the hub's local cache. For names that come from a file instead of the user."""
    token = _may_download.set(False)
    try:
        yield
    finally:
        _may_download.reset(token)


def model_folder(source: str, needed: Iterable[str], parts: Iterable[str] = ("",)) -> Path:
    """Return the local folder of a published model, downloading it if necessary.

    Args:
        source: A folder, or ``hub:ID`` for a repository on the Hugging Face hub, which is downloaded unless it is
            cached; within :func:`without_downloads` never.
        needed: Files that it must have.
        parts: Folders of the repository to download, such as ``vae/``.

    Raises:
        UserError: There is no such folder or repository, or a file is missing.
    """
    folder = _fetch(source, parts) if source.startswith(HUB) else Path(source)
    if not folder.is_dir():
        raise UserError(f"{source}: no such folder; a repository on the Hugging Face hub is written {HUB}OWNER/NAME")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{source}: {', '.join(missing)} missing; give the whole folder of the published model")
    return folder


def _fetch(source: str, parts: Iterable[str]) -> Path:
    """Download configuration, tokenizer and weights; ``.bin`` files only if there are no safetensors."""
    from huggingface_hub import snapshot_download

    name, is_local = source.removeprefix(HUB), not _may_download.get()
    try:
        for part in parts:
            kinds = [f"{part}*.{kind}" for kind in ("json", "txt", "model", "safetensors")]
            folder = Path(snapshot_download(name, allow_patterns=kinds, local_files_only=is_local))
            if not any((folder / part).glob("*.safetensors")):
                snapshot_download(name, allow_patterns=[f"{part}*.bin"], local_files_only=is_local)
    except (OSError, ValueError) as error:  # no network, no such repository, or an invalid id
        if is_local:
            raise UserError(
                f"{source}: not on this machine, and a file asks to download it: where you trust the file, allow it "
                f"with --allow-hub (in Python: allow_hub=True), or name {source} yourself"
            ) from error
        raise UserError(f"{source}: not found on the Hugging Face hub ({first_line(error)})") from error
    return folder
