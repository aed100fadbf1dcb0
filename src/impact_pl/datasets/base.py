"""Shared code of all data sets: find audio files, exclude clips, split, and write the manifest."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from impact_pl.audio import CONVERT, SUFFIXES, UNREADABLE_SUFFIXES
from impact_pl.data.lists import clip_id, read_clip_list
from impact_pl.data.manifest import Record, write_manifest
from impact_pl.errors import UserError
from impact_pl.files import read_json
from impact_pl.partial import write_whole

logger = logging.getLogger(__name__)

MAX_METADATA_BYTES = 1 << 30  # WavCaps' largest part has about 100 MB
AUDIOSET, FREESOUND = "AudioSet", "FreeSound"  # keys of the blacklists


def read_excluded(paths: Sequence[Path]) -> dict[str, set[str]]:
    """Read lists of clips to exclude: source (``AudioSet``, ``FreeSound``) -> ids as returned by :func:`clip_id`.

    Raises:
        UserError: A file is neither such a blacklist nor a list of clips.
    """
    excluded: dict[str, set[str]] = {AUDIOSET: set(), FREESOUND: set()}
    for path in paths:
        if path.suffix.lower() != ".json":
            excluded[AUDIOSET] |= set(read_clip_list(path).captions)
            continue
        expected = 'expected WavCaps\' blacklist, {"AudioSet": [ids], "FreeSound": [ids]}'
        lists = read_json(path, dict[str, list[str | int]], max_bytes=MAX_METADATA_BYTES, remedy=expected)
        if not lists or lists.keys() - excluded.keys():
            raise UserError(f"{path}: {expected}")
        for source, names in lists.items():
            excluded[source] |= {clip_id(str(name)) for name in names}
    return excluded


@dataclass
class Collection:
    """Records (with absolute paths), and the names of listed clips that have no file or were excluded."""

    records: list[Record] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    looked_for: str = ""  # where files of listed clips were searched


def audio_files(folder: Path) -> list[Path]:
    """List all audio files under ``folder`` by suffix, sorted; links are followed.

    Skipped files are logged by suffix.

    Raises:
        UserError: There is no such folder, or no audio in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of audio files")
    files = walk(folder)
    found = sorted(path for path in files if path.suffix.lower() in SUFFIXES)
    others = Counter(path.suffix.lower() or "no suffix" for path in files if path.suffix.lower() not in SUFFIXES)
    passed_over = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    remedy = f"; {CONVERT}" if others.keys() & UNREADABLE_SUFFIXES else ""
    if not found:
        raise UserError(
            f"{folder}: holds no audio files ({', '.join(SUFFIXES)}), but {passed_over or 'nothing'}{remedy}"
        )
    if others:
        logger.warning("%s: %d files are skipped (%s)%s", folder, others.total(), passed_over, remedy)
    return found


def walk(folder: Path) -> list[Path]:
    """List all files under ``folder``.

    Links are followed, but no folder is entered twice, since links may form cycles.
    """
    files: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        files += [path for path in (Path(place, name) for name in names) if path.is_file()]
    return files


def by_stem(folder: Path) -> dict[str, Path]:
    """Map file names without suffix to files. Of equal names the first in sorted order is used."""
    found: dict[str, Path] = {}
    for path in audio_files(folder):
        found.setdefault(path.stem, path)
    return found


def first_of(files: dict[str, Path], stems: list[str]) -> Path | None:
    """Find the file of the first stem that exists."""
    return next((files[stem] for stem in stems if stem in files), None)


def split_of(source: str, valid_share: float) -> str:
    """Choose ``train`` or ``valid`` by the name only, so that adding clips never moves another one."""
    if not 0 <= valid_share < 1:
        raise UserError(f"--valid-share {valid_share:g}: must be in [0, 1)")
    return "valid" if draw_of(source) < valid_share else "train"


def draw_of(source: str) -> float:
    """Hash a name to a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") / 2**64


def names_of(labels: Iterable[str]) -> str | None:
    """Join class names to a caption: ``Acoustic_guitar``, ``Guitar`` -> "acoustic guitar, guitar", or None."""
    return ", ".join(label.replace("_", " ").lower() for label in labels) or None


def write_collection(collection: Collection, out: Path, looked_for: str) -> Collection:
    """Write the manifest (paths inside its folder become relative) and return the collection.

    The names of all clips without a file are written to ``<manifest's name>.missing.txt`` next to it.

    Raises:
        UserError: No listed clip has a file, or all that have one are excluded.
    """
    collection.looked_for = looked_for
    if not collection.records and collection.excluded:
        raise UserError(
            f"no clip is left: --exclude names {len(collection.excluded)} of them, {len(collection.missing)} others "
            f"have no file (looked for {looked_for})"
        )
    if not collection.records:
        raise UserError(f"none of the {len(collection.missing)} listed clips has a file; looked for {looked_for}")
    base = out.parent.resolve()
    for record in collection.records:
        path = Path(record.path).resolve()
        record.path = os.path.relpath(path, base) if path.is_relative_to(base) else str(path)
    write_manifest(out, collection.records)
    missing = missing_list(out)
    missing.unlink(missing_ok=True)  # from an earlier run
    if collection.missing:
        write_whole(missing, "".join(f"{name}\n" for name in collection.missing))
    return collection


def missing_list(out: Path) -> Path:
    """Return the path of the list of clips without a file."""
    return out.with_suffix(".missing.txt")
