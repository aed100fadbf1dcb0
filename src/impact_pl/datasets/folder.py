"""Your own sounds: a folder of audio files, with or without captions -> manifest.jsonl.

The captions file is a CSV with a header, or JSON lines, with the columns `file` (path inside the folder) and `caption`;
`split`, `licence`, `source`, `start` and `duration` (in seconds) may stand beside them. Files that it does not name are
left out. Without a captions file every audio file is taken, without a caption (enough for stage 1).

example: impact data folder --audio my_sounds --captions my_sounds/captions.csv --out manifest.jsonl
"""

import json
from pathlib import Path

from impact_pl.data.manifest import SPLITS, Record
from impact_pl.datasets.base import Collection, audio_files, draw_of, read_csv, read_text, split_of, write_collection
from impact_pl.errors import UserError


def make_manifest(
    audio: Path, out: Path, captions: Path | None = None, valid_share: float = 0.1, licence: str = ""
) -> Collection:
    """Write the manifest ``out`` of a folder of audio files, with the captions of a .csv or .jsonl file."""
    if captions is None:
        rows = [{"file": str(path.relative_to(audio))} for path in audio_files(audio)]
    else:
        audio_files(audio)  # a folder without sounds is told first
        rows = read_captions(captions)
    return write_collection(collect(audio, rows, valid_share, licence), out, f"`file` inside {audio}")


def read_captions(path: Path) -> list[dict]:
    """Rows with at least ``file`` and ``caption``."""
    if path.suffix.lower() == ".csv":
        return read_csv(path, ["file", "caption"])
    if path.suffix.lower() != ".jsonl":
        raise UserError(f"{path}: captions are a .csv or a .jsonl file, not {path.suffix or 'without suffix'!r}")
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error.msg})") from error
        if not isinstance(row, dict) or not isinstance(row.get("file"), str) or not isinstance(row.get("caption"), str):
            raise UserError(f"{path}, line {number}: needs the keys 'file' and 'caption', both strings")
        rows.append(row)
    return rows


def collect(audio: Path, rows: list[dict], valid_share: float, licence: str) -> Collection:
    """One record a row, with the file's name without its suffix as id; the second of a name gets ``#2`` at its id."""
    collection = Collection()
    times_seen: dict[str, int] = {}
    for row in rows:
        name = row["file"].strip()
        path = audio / name
        if not name or not path.is_file():
            collection.missing.append(name)
            continue
        if row.get("split") not in (None, "", *SPLITS):
            raise UserError(f"{name}: split {row['split']!r} is none of {', '.join(SPLITS)}")
        stem = Path(name).with_suffix("").as_posix()
        times_seen[stem] = times_seen.get(stem, 0) + 1
        source = row.get("source") or name
        record = Record(
            id=stem if times_seen[stem] == 1 else f"{stem}#{times_seen[stem]}",
            path=str(path),
            caption=(row.get("caption") or "").strip() or None,
            split=row.get("split") or split_of(source, valid_share),
            licence=row.get("licence") or licence,
            source=source,
            start=_seconds(row, "start", name) or 0.0,
            duration=_seconds(row, "duration", name),
        )
        collection.records.append(record)
    if valid_share > 0 and not any(row.get("split") for row in rows):
        _hold_one_out(collection.records)
    return collection


def _hold_one_out(records: list[Record]) -> None:
    """Of a few clips none may have been drawn for ``valid``: then the source that was nearest to it goes there."""
    if any(record.split == "valid" for record in records) or len({record.source for record in records}) < 2:
        return
    nearest = min((record.source for record in records), key=draw_of)
    for record in records:
        record.split = "valid" if record.source == nearest else record.split


def _seconds(row: dict, key: str, name: str) -> float | None:
    value = row.get(key)
    if value in (None, ""):
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {key} {value!r} is not a number of seconds") from error
