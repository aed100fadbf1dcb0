"""Shared by all data sets: find audio files, leave clips out, split, write the manifest and report what is missing."""

import argparse
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from impact_pl.audio import CONVERT, SUFFIXES, UNREADABLE_SUFFIXES
from impact_pl.data.lists import clip_id, read_clip_list
from impact_pl.data.manifest import Record, write_manifest
from impact_pl.errors import UserError
from impact_pl.files import read_json

logger = logging.getLogger(__name__)


def parser_of(module: str, doc: str) -> argparse.ArgumentParser:
    """Make a parser named after ``python -m <module>``, described by the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


MAX_METADATA_BYTES = 1 << 30  # WavCaps' largest part has about 100 MB
AUDIOSET, FREESOUND = "AudioSet", "FreeSound"  # the blacklists' keys


def add_exclude(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--exclude",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="leave these clips out: WavCaps' blacklist_*.json, test lists, AudioCaps' CSV",
    )


def read_excluded(paths: list[Path]) -> dict[str, set[str]]:
    """Read lists of clips to leave out: source (``AudioSet``, ``FreeSound``) -> ids as :func:`clip_id` writes them.

    Raises:
        UserError: a file that is neither such a blacklist nor a list of clips.
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
    """Records found so far (absolute paths), and the names of listed clips without a file, or left out on purpose."""

    records: list[Record] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)


def audio_files(folder: Path) -> list[Path]:
    """List every audio file under ``folder``, by its suffix, sorted; links are followed.

    What is passed over is logged by suffix.

    Raises:
        UserError: no such folder, or no audio in it.
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
        logger.warning("%s: %d files are passed over (%s)%s", folder, others.total(), passed_over, remedy)
    return found


def walk(folder: Path) -> list[Path]:
    """List all files under ``folder``. Links are followed, but no folder is entered twice: links may form circles."""
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
    """Map file names without suffix to files; among equal names the first in sorted order counts."""
    found: dict[str, Path] = {}
    for path in audio_files(folder):
        found.setdefault(path.stem, path)
    return found


def first_of(files: dict[str, Path], stems: list[str]) -> Path | None:
    """Find the file of the first stem that exists."""
    return next((files[stem] for stem in stems if stem in files), None)


def split_of(source: str, valid_share: float) -> str:
    """Choose ``train`` or ``valid`` from the name alone: adding clips never moves another one."""
    if not 0 <= valid_share < 1:
        raise UserError(f"--valid-share {valid_share:g}: must be in [0, 1)")
    return "valid" if draw_of(source) < valid_share else "train"


def draw_of(source: str) -> float:
    """Hash a name to a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") / 2**64


def names_of(labels: Iterable[str]) -> str | None:
    """Join names of classes to a caption: ``Acoustic_guitar``, ``Guitar`` -> "acoustic guitar, guitar", or None."""
    return ", ".join(label.replace("_", " ").lower() for label in labels) or None


def finish(collection: Collection, out: Path, looked_for: str) -> None:
    """Write the manifest (paths inside its folder relative, others absolute) and say what was found.

    The names of all clips without a file go to ``<manifest's name>.missing.txt`` beside it.

    Raises:
        UserError: not one listed clip has a file, or all that have one are left out.
    """
    total = len(collection.records) + len(collection.missing)
    if not collection.records and collection.excluded:
        raise UserError(
            f"no clip is left: --exclude names {len(collection.excluded)} of them, {total} others have no file"
            f" (looked for {looked_for})"
        )
    if not collection.records:
        raise UserError(f"none of the {total} listed clips has a file; looked for {looked_for}")
    base = out.parent.resolve()
    for record in collection.records:
        path = Path(record.path).resolve()
        record.path = os.path.relpath(path, base) if path.is_relative_to(base) else str(path)
    write_manifest(out, collection.records)
    missing = out.with_suffix(".missing.txt")
    missing.unlink(missing_ok=True)  # of an earlier run
    captions = sum(record.caption is not None for record in collection.records)
    print(f"{out}: {len(collection.records)} clips, {captions} with a caption")
    for split in sorted({record.split for record in collection.records}):
        print(f"  {split}: {sum(record.split == split for record in collection.records)}")
    if collection.excluded:
        print(f"{len(collection.excluded)} clips were left out, as --exclude asks")
    if collection.missing:
        missing.write_text("".join(f"{name}\n" for name in collection.missing), encoding="utf-8")
        print(
            f"{len(collection.missing)} of {total} listed clips have no file (looked for {looked_for}; all: {missing}):"
        )
        for name in collection.missing[:10]:
            print(f"  {name}")
