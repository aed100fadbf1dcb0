"""The manifest: one JSON record a line, one record a clip; what every data set is turned into before precomputing."""

import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from impact_pl.errors import UserError
from impact_pl.partial import write_whole

SPLITS = ("train", "valid", "test")
LONGEST_STEM = 180  # bytes: file systems allow 255, and suffixes follow


@dataclass
class Record:
    """One clip. ``path`` is absolute, or relative to the manifest's folder; times are in seconds."""

    id: str
    path: str
    start: float = 0.0
    duration: float | None = None  # None: to the end of the file
    caption: str | None = None
    split: str = "train"
    licence: str = ""
    source: str = ""
    labels: tuple[str, ...] = ()  # names of classes, where a data set has them


def read_manifest(path: str | Path) -> list[Record]:
    """Read and check a manifest; the records' paths come back absolute.

    Raises:
        ValueError: The file is missing or empty, or a line is not a valid record (names line number and key).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such manifest; make one with `python -m impact_pl.datasets.folder --help`")
    lines = read_utf8(path).splitlines()
    records: list[Record] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        record = _parse_record(line, where)
        if record.id in line_of:
            raise UserError(f"{where}: id {record.id!r} was already used in line {line_of[record.id]}")
        line_of[record.id] = number
        record.path = str(path.parent.resolve() / record.path)  # an absolute record.path stays as it is
        records.append(record)
    if not records:
        raise UserError(f"{path}: the manifest is empty")
    return records


def write_manifest(path: str | Path, records: list[Record]) -> None:
    """Write records, one JSON object a line, leaving out what has its default; paths are written as they are.

    Raises:
        ValueError: two records have one id.
    """
    path = Path(path)
    twice = [identity for identity, count in Counter(record.id for record in records).items() if count > 1]
    if twice:
        raise UserError(f"{path}: {len(twice)} ids stand twice or more, first {twice[0]!r}: list each clip once")
    defaults = {field.name: field.default for field in fields(Record)}
    lines = []
    for record in records:
        kept = {key: value for key, value in asdict(record).items() if value != defaults[key]}
        lines.append(json.dumps(kept, ensure_ascii=False) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(lines))


def read_utf8(path: Path) -> str:
    """A text file's content, without a byte order mark; ValueError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from error


def file_stem(record_id: str) -> str:
    """A record's id as the name of a file without its suffix: how the files of a record are named everywhere.

    A longer id than file systems take is cut, and told from others by its checksum.
    """
    stem = re.sub(r"[^\w.-]+", "_", record_id)
    if len(stem.encode()) > LONGEST_STEM:
        digest = hashlib.sha256(record_id.encode()).hexdigest()[:16]
        stem = f"{stem.encode()[: LONGEST_STEM - 17].decode(errors='ignore')}-{digest}"
    return stem if stem.strip(".") else stem.replace(".", "_")  # "..": a folder, "...wav": a file without a stem


def file_stems(record_ids: list[str]) -> list[str]:
    """:func:`file_stem` of each id.

    Raises:
        ValueError: two ids would share a file, if only on a file system that takes capitals for small letters.
    """
    id_of: dict[str, str] = {}
    for record_id in record_ids:
        first = id_of.setdefault(file_stem(record_id).casefold(), record_id)
        if first != record_id:
            raise UserError(f"ids {first!r} and {record_id!r} give the same file name {file_stem(first)!r}: rename one")
    return [file_stem(record_id) for record_id in record_ids]


def _parse_record(line: str, where: str) -> Record:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(values).__name__}")
    names = [field.name for field in fields(Record)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; known keys are {', '.join(names)}")
    for key in ("id", "path"):
        if not isinstance(values.get(key), str) or not values[key]:
            raise UserError(f"{where}: key {key!r} must be a non-empty string, got {values.get(key)!r}")
    for key in ("licence", "source", "split"):
        if not isinstance(values.get(key, ""), str):
            raise UserError(f"{where}: key {key!r} must be a string, got {values[key]!r}")
    labels = values.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{where}: key 'labels' must be a list of strings, got {labels!r}")
    values["labels"] = tuple(labels)
    if not isinstance(values.get("caption"), str | None):
        raise UserError(f"{where}: key 'caption' must be a string or null, got {values['caption']!r}")
    for key, value in values.items():
        text = "".join(value) if key == "labels" else value
        if isinstance(text, str) and re.search("[\ud800-\udfff]", text):
            raise UserError(f"{where}: key {key!r} holds half of a surrogate pair, which is no character: {value!r}")
    values["start"] = _seconds(values.get("start", 0.0), "start", where)
    if values.get("duration") is not None:
        values["duration"] = _seconds(values["duration"], "duration", where)
    if values["start"] < 0 or values.get("duration") == 0:
        raise UserError(f"{where}: keys 'start' >= 0 and 'duration' > 0 are needed")
    record = Record(**values)
    if record.split not in SPLITS:
        raise UserError(f"{where}: key 'split' must be one of {', '.join(SPLITS)}, got {record.split!r}")
    if record.caption is not None:
        record.caption = record.caption.strip() or None
    return record


def _seconds(value: object, key: str, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:  # type: ignore[arg-type, operator]
        raise UserError(f"{where}: key {key!r} must be a number of seconds, not below 0, got {value!r}")
    return float(value)  # type: ignore[arg-type]
