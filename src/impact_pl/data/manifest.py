"""Read and write manifests: JSON Lines with one record per clip, the common format of all data sets."""

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, MinLen
from pydantic import StringConstraints

from impact_pl.errors import UserError
from impact_pl.files import STRICT, read_jsonl
from impact_pl.partial import write_whole

SPLITS = ("train", "valid", "test")
Split = Annotated[str, StringConstraints(pattern=f"^({'|'.join(SPLITS)})$")]
LONGEST_STEM = 180  # bytes; file systems allow 255, including suffixes


@dataclass
class Record:
    """One clip. ``path`` is absolute, or relative to the manifest's folder; times are in seconds."""

    __pydantic_config__ = STRICT

    id: Annotated[str, MinLen(1)]
    path: Annotated[str, MinLen(1)]
    start: Annotated[float, Ge(0)] = 0.0
    duration: Annotated[float, Gt(0)] | None = None  # None: to the end of the file
    caption: str | None = None
    split: Split = "train"
    licence: str = ""
    source: str = ""
    labels: tuple[str, ...] = ()  # class names, if the data set has them


def read_manifest(path: str | Path) -> list[Record]:
    """Read and check a manifest; the records' paths come back absolute.

    Raises:
        UserError: The file is missing or empty, or a line is not a valid record (names line number and key).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such manifest; make one with `impact data folder --help`")
    folder = path.parent.resolve()
    records: list[Record] = []
    line_of: dict[str, int] = {}
    for number, record in read_jsonl(path, Record, f"the keys are {', '.join(field.name for field in fields(Record))}"):
        if record.id in line_of:
            raise UserError(
                f"{path}, line {number}: id {record.id!r} was already used in line {line_of[record.id]}: rename one"
            )
        line_of[record.id] = number
        record.path = str(folder / record.path)  # an absolute record.path is unchanged
        record.caption = (record.caption or "").strip() or None
        records.append(record)
    if not records:
        raise UserError(f"{path}: the manifest is empty")
    return records


def write_manifest(path: str | Path, records: list[Record]) -> None:
    """Write records as JSON Lines, without fields that have default values. Paths are written unchanged.

    Raises:
        UserError: Two records have the same id.
    """
    path = Path(path)
    twice = [identity for identity, count in Counter(record.id for record in records).items() if count > 1]
    if twice:
        raise UserError(f"{path}: {len(twice)} ids are used more than once, first {twice[0]!r}: list each clip once")
    defaults = {field.name: field.default for field in fields(Record)}
    lines = []
    for record in records:
        kept = {key: value for key, value in asdict(record).items() if value != defaults[key]}
        lines.append(json.dumps(kept, ensure_ascii=False) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(lines)
    try:
        write_whole(path, content)
    except UnicodeEncodeError as error:  # file names need not be UTF-8
        line = content.count("\n", 0, error.start)
        raise UserError(f"{path}: {records[line].path!r} is not a UTF-8 name: rename that file") from error


def file_stem(record_id: str) -> str:
    """Convert a record's id to a file name without suffix, used for all files of the record.

    An id that is too long for a file system is truncated and made unique by its checksum.
    """
    stem = re.sub(r"[^\w.-]+", "_", record_id)
    if len(stem.encode()) > LONGEST_STEM:
        digest = hashlib.sha256(record_id.encode()).hexdigest()[:16]
        stem = f"{stem.encode()[: LONGEST_STEM - 17].decode(errors='ignore')}-{digest}"
    return stem if stem.strip(".") else stem.replace(".", "_")  # "..": a folder, "...wav": a file without a stem


def file_stems(record_ids: list[str]) -> list[str]:
    """Apply :func:`file_stem` to each id.

    Raises:
        UserError: Two ids would share a file, at least on file systems that ignore case.
    """
    id_of: dict[str, str] = {}
    for record_id in record_ids:
        first = id_of.setdefault(file_stem(record_id).casefold(), record_id)
        if first != record_id:
            raise UserError(f"ids {first!r} and {record_id!r} give the same file name {file_stem(first)!r}: rename one")
    return [file_stem(record_id) for record_id in record_ids]
