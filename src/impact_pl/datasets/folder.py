"""Your own sounds: convert a folder of audio files, with or without captions, to manifest.jsonl.

The captions file is a CSV with a header, or JSON lines, with the columns `file` (path inside the folder) and `caption`;
`split`, `licence`, `source`, `start` and `duration` (in seconds) are optional. Files that it does not list are skipped.
Without a captions file every audio file is used, without a caption (enough for stage 1).

example: impact data folder --audio my_sounds --captions my_sounds/captions.csv --out manifest.jsonl
"""

import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, MinLen
from pydantic import ConfigDict

from impact_pl.data.manifest import Record, Split
from impact_pl.datasets.base import Collection, audio_files, draw_of, split_of, write_collection
from impact_pl.errors import UserError
from impact_pl.files import check_value, read_csv, read_jsonl

logger = logging.getLogger(__name__)


@dataclass
class Clip:
    """Row of a captions file; other columns are ignored."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)  # not strict, because numbers are text in a CSV

    file: Annotated[str, MinLen(1)]
    caption: str | None
    split: Split | None = None
    licence: str | None = None
    source: str | None = None
    start: Annotated[float, Ge(0)] | None = None
    duration: Annotated[float, Gt(0)] | None = None


def make_manifest(
    audio: Path, out: Path, captions: Path | None = None, valid_share: float = 0.1, licence: str = ""
) -> Collection:
    """Write the manifest ``out`` from a folder of audio files, with the captions of a .csv or .jsonl file."""
    if captions is None:
        rows = [{"file": str(path.relative_to(audio))} for path in audio_files(audio)]
    else:
        audio_files(audio)  # report a folder without sounds first
        rows = read_captions(captions)
    return write_collection(collect(audio, rows, valid_share, licence), out, f"`file` inside {audio}")


def read_captions(path: Path) -> list[dict]:
    """Read the rows of a captions file, as dictionaries of :class:`Clip`'s fields."""
    if path.suffix.lower() == ".csv":
        rows = read_csv(path, ["file", "caption"])
        given = [(line, {key: cell if cell.strip() else None for key, cell in cells.items()}) for line, cells in rows]
        return [asdict(check_value(cells, Clip, f"{path}, line {line}")) for line, cells in given]
    if path.suffix.lower() != ".jsonl":
        raise UserError(f"{path}: captions are a .csv or a .jsonl file, not {path.suffix or 'without suffix'!r}")
    return [asdict(clip) for _, clip in read_jsonl(path, Clip)]


def collect(audio: Path, rows: list[dict], valid_share: float, licence: str) -> Collection:
    """Create a record per row, with the file's stem as id. Further records of a name get ``#2`` and so on."""
    collection = Collection()
    groups: list[str] = []
    times_seen: dict[str, int] = {}
    one_source = len({row.get("source") or row["file"] for row in rows}) == 1 < len({row["file"] for row in rows})
    if one_source and valid_share > 0 and not any(row.get("split") for row in rows):
        logger.warning("all clips have the source %r: they are split by file instead", rows[0]["source"])
    for row in rows:
        name = _find(audio, row["file"])
        if name is None:
            collection.missing.append(row["file"])
            continue
        stem = Path(name).with_suffix("").as_posix()
        times_seen[stem] = times_seen.get(stem, 0) + 1
        source = row.get("source") or name
        group = name if one_source else source  # records of a group stay in one split
        record = Record(
            id=stem if times_seen[stem] == 1 else f"{stem}#{times_seen[stem]}",
            path=str(audio / name),
            caption=(row.get("caption") or "").strip() or None,
            split=row.get("split") or split_of(group, valid_share),
            licence=row.get("licence") or licence,
            source=source,
            start=row.get("start") or 0.0,
            duration=row.get("duration"),
        )
        collection.records.append(record)
        groups.append(group)
    if valid_share > 0 and not any(row.get("split") for row in rows):
        _fill_both_splits(collection.records, groups)
    return collection


def _find(audio: Path, name: str) -> str | None:
    """Find a listed file. Its name or the cell may have leading or trailing spaces.

    Raises:
        UserError: It is outside of the folder.
    """
    if not Path(os.path.normpath(audio / name.strip())).is_relative_to(os.path.normpath(audio)):
        raise UserError(f"file {name!r} is outside of {audio}: list files inside of that folder")
    return next((each for each in (name, name.strip()) if each.strip() and (audio / each).is_file()), None)


def _fill_both_splits(records: list[Record], groups: list[str]) -> None:
    """Move a group of records to an empty split: the group whose draw was closest to it.

    A single group is used for training, and nothing is held out.
    """
    drawn = sorted(set(groups), key=draw_of)
    for split, nearest in (("valid", drawn[:1]), ("train", drawn[-1:])):
        if any(record.split == split for record in records) or (split == "valid" and len(drawn) < 2):
            continue
        for record, group in zip(records, groups, strict=True):
            record.split = split if group in nearest else record.split
