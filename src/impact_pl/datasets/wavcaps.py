"""WavCaps: its published JSON parts and a local folder of its audio -> manifest.jsonl.

A part is {"data": [{"id", "caption", "duration", ...}, ...]}. Its source is told by its path, as published:
FreeSound/fsd_final.json, AudioSet_SL/as_final.json, BBC_Sound_Effects/bbc_final.json, SoundBible/sb_final.json.
A clip is searched by its id in the folders of its source (`FreeSound`, `FreeSound_flac`, ...) and in those that name
no source: ids are unique within a source only. --exclude removes what is in AudioCaps, or in a test set: WavCaps
publishes such lists of ids, blacklist/blacklist_exclude_all_ac.json, ..._test_ac.json and
..._ub8k_esc50_vggsound.json.

Most of FreeSound's and BBC's recordings are long. --seconds 10 takes the first ten seconds of each, as the paper's
1,200 hours of WavCaps and AudioCaps imply (402,958 clips of at most ten seconds are 1,100 hours; in full 7,568).

example: impact data wavcaps --json json_files/*/*_final.json --audio wavcaps --seconds 10 \\
             --exclude json_files/blacklist/blacklist_exclude_all_ac.json --out wavcaps.jsonl
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from annotated_types import MinLen
from typing_extensions import TypedDict

from impact_pl.data.lists import clip_id
from impact_pl.data.manifest import Record
from impact_pl.datasets.base import (
    AUDIOSET,
    FREESOUND,
    MAX_METADATA_BYTES,
    SUFFIXES,
    Collection,
    audio_files,
    read_excluded,
    split_of,
    write_collection,
)
from impact_pl.errors import UserError
from impact_pl.files import read_json

SOURCES = {  # of parts and audio -> what their folders' or files' names begin with, in small letters
    AUDIOSET: ("audioset", "as_final"),
    FREESOUND: ("freesound", "fsd_final"),
    "BBC_Sound_Effects": ("bbc",),
    "SoundBible": ("soundbible", "sb_final"),
}
Files = dict[tuple[str | None, str], Path]  # (source, None where no folder names one; stem) -> file


def make_manifest(
    parts: list[Path],
    audio: Path,
    out: Path,
    valid_share: float = 0.0,
    seconds: float | None = None,
    exclude: Sequence[Path] = (),
) -> Collection:
    """Write the manifest ``out`` of WavCaps' JSON parts and a folder of its audio."""
    if seconds is not None and not 0 < seconds < math.inf:
        raise UserError(f"--seconds {seconds:g}: must be above 0")
    read = {path: read_part(path) for path in parts}
    collection = collect(read, find_files(audio), valid_share, read_excluded(exclude), seconds)
    return write_collection(collection, out, f"<id> under {audio}")


class Entry(TypedDict):
    """What is used of a clip's entry; other keys are ignored."""

    id: str | int
    caption: str


class Part(TypedDict):
    """A published part."""

    data: Annotated[list[Entry], MinLen(1)]


def read_part(path: Path) -> list[Entry]:
    """Read the entries of a part.

    Raises:
        UserError: not such a JSON file, an entry without id or caption, or no entries.
    """
    expected = 'expected {"data": [{"id", "caption", ...}, ...]} with at least one entry'
    return read_json(path, Part, max_bytes=MAX_METADATA_BYTES, remedy=expected)["data"]


def find_files(folder: Path) -> Files:
    """Map every audio file by its source, which a folder above it names (else None), and stem; the first one counts."""
    files: Files = {}
    for path in audio_files(folder):
        files.setdefault((source_of(path.relative_to(folder.parent).parent), path.stem), path)
    return files


def source_of(path: Path) -> str | None:
    """Find the source of a part or of a folder of audio by the nearest name that tells it; None where none does."""
    for name in reversed(path.parts):
        for source, beginnings in SOURCES.items():
            if name.lower().startswith(beginnings):
                return source
    return None


def collect(
    parts: dict[Path, list[Entry]],
    files: Files,
    valid_share: float,
    excluded: dict[str, set[str]] | None = None,
    longest: float | None = None,
) -> Collection:
    """Records named ``wavcaps/<part>/<id>``; the id's own audio suffix (AudioSet's part has one) does not count.

    Raises:
        UserError: clips are to be left out of a part whose path does not tell its source.
    """
    collection = Collection()
    for part, entries in parts.items():
        source = source_of(part)
        if source is None and excluded and any(excluded.values()):
            raise UserError(f"{part}: --exclude needs to know its source; its path names none of {', '.join(SOURCES)}")
        unwanted = (excluded or {}).get(source or "", set())
        for entry in entries:
            name = str(entry["id"])
            stem = Path(name).stem if Path(name).suffix.lower() in SUFFIXES else name
            if clip_id(stem) in unwanted:
                collection.excluded.append(name)
                continue
            path = files.get((source, stem)) or files.get((None, stem))
            if path is None:
                collection.missing.append(name)
                continue
            record = Record(f"wavcaps/{part.stem}/{stem}", str(path), caption=entry["caption"].strip() or None)
            record.source = f"youtube/{clip_id(stem)}" if source == AUDIOSET else record.id
            record.split = split_of(record.source, valid_share)
            record.duration = longest
            collection.records.append(record)
    return collection
