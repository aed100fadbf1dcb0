"""What the data sets share: find audio files, read tables, write the manifest."""

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from impact_pl.audio import SUFFIXES
from impact_pl.data.lists import clip_id, read_clip_list
from impact_pl.data.manifest import Record, read_utf8, write_manifest
from impact_pl.errors import UserError
from impact_pl.partial import write_whole

AUDIOSET, FREESOUND = "AudioSet", "FreeSound"  # the blacklists' keys


def read_excluded(paths: Sequence[Path]) -> dict[str, set[str]]:
    """Source (``AudioSet``, ``FreeSound``) -> ids, as :func:`clip_id` writes them, of all files together.

    Raises:
        ValueError: a file that is neither such a blacklist nor a list of clips.
    """
    excluded: dict[str, set[str]] = {AUDIOSET: set(), FREESOUND: set()}
    for path in paths:
        if path.suffix.lower() != ".json":
            excluded[AUDIOSET] |= set(read_clip_list(path).captions)
            continue
        try:
            lists = json.loads(read_text(path))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: not JSON ({error.msg} in line {error.lineno})") from error
        known = isinstance(lists, dict) and lists and not set(lists) - set(excluded)
        if not known or not all(isinstance(names, list) for names in lists.values()):
            raise UserError(f'{path}: expected WavCaps\' blacklist, {{"AudioSet": [ids], "FreeSound": [ids]}}')
        for source, names in lists.items():
            excluded[source] |= {clip_id(str(name)) for name in names}
    return excluded


@dataclass
class Collection:
    """Records found so far (absolute paths), and the names of listed clips without a file, or left out on purpose."""

    records: list[Record] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    looked_for: str = ""  # where a listed clip's file was searched


def audio_files(folder: Path) -> list[Path]:
    """List every audio file under ``folder``, by its suffix, in sorted order.

    Raises:
        ValueError: no such folder, or no audio in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of audio files")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UserError(f"{folder}: holds no audio files ({', '.join(SUFFIXES)})")
    return found


def by_stem(folder: Path) -> dict[str, Path]:
    """File name without suffix -> file; of equal names the first in sorted order counts."""
    found: dict[str, Path] = {}
    for path in audio_files(folder):
        found.setdefault(path.stem, path)
    return found


def first_of(files: dict[str, Path], stems: list[str]) -> Path | None:
    """The file of the first stem that exists."""
    return next((files[stem] for stem in stems if stem in files), None)


def read_csv(path: Path, columns: list[str]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header.

    Raises:
        ValueError: the file is missing, empty, has no rows, or lacks one of ``columns``; a row has fewer or more cells.
    """
    text = read_text(path)
    rows = csv.DictReader(text.splitlines(keepends=True), skipinitialspace=True)
    absent = [column for column in columns if column not in (rows.fieldnames or [])]
    if absent:
        raise UserError(f"{path}: no column {absent[0]!r}; its header is {', '.join(rows.fieldnames or ['empty'])}")
    result = list(rows)
    if not result:
        raise UserError(f"{path}: has a header but no rows")
    for number, row in enumerate(result, start=2):
        if any(row[column] is None for column in columns):
            raise UserError(f"{path}: row {number} has fewer cells than the header")
        if None in row:
            raise UserError(f"{path}: row {number} has more cells than the header; a cell with a comma needs quotes")
    return result


def read_text(path: Path) -> str:
    """A text file's content; ValueError where it is missing, empty or not UTF-8."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    text = read_utf8(path)
    if not text.strip():
        raise UserError(f"{path}: is empty")
    return text


def split_of(source: str, valid_share: float) -> str:
    """``train`` or ``valid``, a function of the name alone: adding clips never moves another one."""
    if not 0 <= valid_share < 1:
        raise UserError(f"--valid-share {valid_share:g}: must be in [0, 1)")
    return "valid" if draw_of(source) < valid_share else "train"


def draw_of(source: str) -> float:
    """A number in [0, 1) that looks random and follows from the name."""
    return int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") / 2**64


def names_of(labels: Iterable[str]) -> str | None:
    """Names of classes as a caption: ``Acoustic_guitar``, ``Guitar`` -> "acoustic guitar, guitar"; None without any."""
    return ", ".join(label.replace("_", " ").lower() for label in labels) or None


def write_collection(collection: Collection, out: Path, looked_for: str) -> Collection:
    """Write the manifest (paths inside its folder relative, others absolute), and give the collection back.

    The names of all clips without a file go to ``<manifest's name>.missing.txt`` next to it.

    Raises:
        UserError: no listed clip has a file, or all that have one are left out.
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
    missing.unlink(missing_ok=True)  # of an earlier run
    if collection.missing:
        write_whole(missing, "".join(f"{name}\n" for name in collection.missing))
    return collection


def missing_list(out: Path) -> Path:
    """Where the names of a manifest's clips without a file stand."""
    return out.with_suffix(".missing.txt")
