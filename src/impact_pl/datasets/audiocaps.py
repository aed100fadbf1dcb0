"""AudioCaps: convert its published CSV and a local folder of its audio to manifest.jsonl.

The CSV has the columns audiocap_id, youtube_id, start_time, caption. A clip is searched as <youtube_id>, Y<youtube_id>,
<youtube_id>_<start>, or Y<youtube_id>_<start>, optionally followed by _<end> (start and end in seconds, as 30 or
30.000), anywhere under the folder. A file longer than 15 s without a start in its name is treated as the complete
video, of which ten seconds from start_time on are used.

example: impact data audiocaps --csv train.csv --audio audiocaps/train --split train --out train.jsonl
"""

from pathlib import Path
from typing import Annotated

import soundfile
from annotated_types import Ge
from pydantic import AllowInfNan

from impact_pl.data.manifest import Record
from impact_pl.datasets.base import Collection, by_stem, first_of, write_collection
from impact_pl.files import Row, check_value, read_csv

CLIP_SECONDS = 10.0
LONGEST_CUT_SECONDS = 15.0  # a longer file without a start in its name is the complete video


def make_manifest(table: Path, audio: Path, out: Path, split: str = "train") -> Collection:
    """Write the manifest ``out`` from AudioCaps' CSV ``table`` and a folder of its audio."""
    rows = read_csv(table, ["audiocap_id", "youtube_id", "start_time", "caption"])
    looked_for = f"<youtube_id>[_<start>[_<end>]], with or without a Y before it, under {audio}"
    return write_collection(collect(rows, by_stem(audio), split), out, looked_for)


def collect(rows: list[Row], files: dict[str, Path], split: str) -> Collection:
    collection = Collection()
    for line, row in rows:
        start = seconds(row["start_time"], f"line {line}, start_time")
        path, is_cut = find_clip(files, row["youtube_id"], start)
        if path is None:
            collection.missing.append(row["youtube_id"])
            continue
        record = Record(f"audiocaps/{row['audiocap_id']}", str(path), caption=row["caption"].strip() or None)
        record.split, record.source = split, f"youtube/{row['youtube_id']}"
        if not is_cut:
            record.start, record.duration = start, CLIP_SECONDS
        collection.records.append(record)
    return collection


def find_clip(
    files: dict[str, Path], youtube_id: str, start: float, length: float = CLIP_SECONDS
) -> tuple[Path | None, bool]:
    """Find the file of a clip, and whether it contains just the clip's seconds."""
    names = [youtube_id, f"Y{youtube_id}"]
    cut = first_of(files, [name + suffix for name in names for suffix in cut_suffixes(start, length)])
    if cut is not None:
        return cut, True
    path = first_of(files, names)
    return path, path is None or not _is_long(path)


def cut_suffixes(start: float, length: float) -> list[str]:
    """List the file name endings that state which seconds the file contains."""
    suffixes = []
    for style in ("{:g}", "{:.1f}", "{:.3f}"):
        begin, end = style.format(start), style.format(start + length)
        suffixes += [f"_{begin}", f"_{begin}_{end}"]
    return suffixes


def seconds(value: str, where: str) -> float:
    """Parse a table's cell as a number of seconds."""
    return check_value(value, Annotated[float, Ge(0), AllowInfNan(False)], where, "expected a number of seconds")  # type: ignore[arg-type]


def _is_long(path: Path) -> bool:
    try:
        return soundfile.info(path).duration > LONGEST_CUT_SECONDS
    except soundfile.LibsndfileError:
        return False  # precomputing rejects it with a reason
