"""WavCaps: convert its published JSON parts and a local folder of its audio to manifest.jsonl.

A part is {"data": [{"id", "caption", "duration", ...}, ...]}. Its source follows from its path, as published:
FreeSound/fsd_final.json, AudioSet_SL/as_final.json, BBC_Sound_Effects/bbc_final.json, SoundBible/sb_final.json.
A clip is searched by its id in the folders of its source (`FreeSound`, `FreeSound_flac`, ...) and in those that name
no source, because ids are only unique within a source. --exclude removes clips of AudioCaps, or of a test set; WavCaps
publishes such lists of ids: blacklist/blacklist_exclude_all_ac.json, ..._test_ac.json and
..._ub8k_esc50_vggsound.json.

Most FreeSound and BBC recordings are long. --seconds 10 uses the first ten seconds of each. The paper's 1,200 hours of
WavCaps and AudioCaps imply this: 402,958 clips of at most ten seconds are 1,100 hours, complete clips 7,568 hours.

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

SOURCES = {  # of parts and audio -> lower-case prefixes of their folder or file names
    AUDIOSET: ("audioset", "as_final"),
    FREESOUND: ("freesound", "fsd_final"),
    "BBC_Sound_Effects": ("bbc",),
    "SoundBible": ("soundbible", "sb_final"),
}
Files = dict[tuple[str | None, str], Path]  # (source, or None if no folder names one; stem) -> file


def make_manifest(
    parts: list[Path],
    audio: Path,
    out: Path,
    valid_share: float = 0.0,
    seconds: float | None = None,
    exclude: Sequence[Path] = (),
) -> Collection:
    """Write the manifest ``out`` from WavCaps' JSON parts and a folder of its audio."""
    if seconds is not None and not 0 < seconds < math.inf:
        raise UserError(f"--seconds {seconds:g}: must be above 0")
    read = {path: read_part(path) for path in parts}
    collection = collect(read, find_files(audio), valid_share, read_excluded(exclude), seconds)
    return write_collection(collection, out, f"<id> under {audio}")


class Entry(TypedDict):
    """Fields of a clip's entry; other keys are ignored."""

    id: str | int
    caption: str


class Part(TypedDict):
    """Schema of a published part."""

    data: Annotated[list[Entry], MinLen(1)]


def read_part(path: Path) -> list[Entry]:
    """Read the entries of a part.

    Raises:
        UserError: It is not such a JSON file, an entry lacks id or caption, or there are no entries.
    """
    expected = 'expected {"data": [{"id", "caption", ...}, ...]} with at least one entry'
    return read_json(path, Part, max_bytes=MAX_METADATA_BYTES, remedy=expected)["data"]


def find_files(folder: Path) -> Files:
    """Map every audio file by its source (from a parent folder's name, else None) and stem; the first one is used."""
    files: Files = {}
    for path in audio_files(folder):
        files.setdefault((source_of(path.relative_to(folder.parent).parent), path.stem), path)
    return files


def source_of(path: Path) -> str | None:
    """Find the source of a part or of an audio folder from the nearest name that contains it; None if there is none."""
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
    """Collect records named ``wavcaps/<part>/<id>``, without the id's own audio suffix (AudioSet's part has one).

    Raises:
        UserError: Clips are to be excluded from a part whose path does not contain its source.
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
