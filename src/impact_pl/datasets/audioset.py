"""AudioSet: convert its published segments CSV and a folder of its audio to manifest.jsonl without captions (stage 1).

A row is `YTID, start_seconds, end_seconds, "label,label"`; comment lines begin with #. File names are those that
`impact data audiocaps` reads. Several segment files (balanced and unbalanced) make one manifest. With --labels
(class_labels_indices.csv: index, mid, display_name; or the ontology's ontology.json) each record keeps its labels'
names, else their mids. AudioCaps is a part of AudioSet: --exclude with a test list keeps its clips out of stage 1.

example: impact data audioset --csv balanced_train_segments.csv unbalanced_train_segments.csv \\
             --labels ontology.json --exclude audiocaps/test.csv --audio audioset --out audioset.jsonl
"""

from collections.abc import Sequence
from pathlib import Path

from typing_extensions import TypedDict

from impact_pl.data.manifest import Record
from impact_pl.datasets.audiocaps import find_clip, seconds
from impact_pl.datasets.base import (
    AUDIOSET,
    Collection,
    by_stem,
    read_excluded,
    write_collection,
)
from impact_pl.errors import UserError
from impact_pl.files import read_cells, read_csv, read_json, read_lines


class OntologyEntry(TypedDict):
    """Fields of a class in ontology.json; other keys are ignored."""

    id: str
    name: str


def make_manifest(
    tables: list[Path],
    audio: Path,
    out: Path,
    labels: Path | None = None,
    split: str = "train",
    exclude: Sequence[Path] = (),
) -> Collection:
    """Write the manifest ``out`` from AudioSet's segment files and a folder of its audio."""
    names = read_labels(labels) if labels is not None else {}
    segments = [segment for path in tables for segment in read_segments(path)]
    excluded = read_excluded(exclude)[AUDIOSET]
    looked_for = f"<YTID>[_<start>[_<end>]], with or without a Y before it, under {audio}"
    return write_collection(collect(segments, by_stem(audio), names, split, excluded), out, looked_for)


def read_labels(path: Path) -> dict[str, str]:
    """Map class ids (mids) to names, from class_labels_indices.csv or ontology.json.

    Raises:
        UserError: The file is neither of them.
    """
    if path.suffix.lower() != ".json":
        return {row["mid"]: row["display_name"] for _, row in read_csv(path, ["mid", "display_name"])}
    expected = 'expected AudioSet\'s ontology.json, [{"id", "name", ...}, ...]'
    return {entry["id"]: entry["name"] for entry in read_json(path, list[OntologyEntry], remedy=expected)}


def read_segments(path: Path) -> list[tuple[str, float, float, list[str]]]:
    """Read (YTID, start, end, mids of the labels) of every row."""
    lines = ["" if line.startswith("#") else line for line in read_lines(path)]
    rows = []
    for number, row in read_cells(lines, str(path), skip_spaces=True):
        where = f"{path}, line {number}"
        if len(row) != 4:
            raise UserError(f"{where}: has {len(row)} cells; expected YTID, start, end, labels")
        start, end = seconds(row[1], where), seconds(row[2], where)
        if end <= start:
            raise UserError(f"{where}: ends at {end:g} s, not after its start at {start:g} s")
        rows.append((row[0], start, end, row[3].split(",")))
    if not rows:
        raise UserError(f"{path}: holds no segments")
    return rows


def collect(
    rows: list[tuple[str, float, float, list[str]]],
    files: dict[str, Path],
    names: dict[str, str],
    split: str,
    excluded: set[str] | frozenset[str] = frozenset(),
) -> Collection:
    collection = Collection()
    for youtube_id, start, end, mids in rows:
        if youtube_id in excluded:
            collection.excluded.append(youtube_id)
            continue
        path, is_cut = find_clip(files, youtube_id, start, end - start)
        if path is None:
            collection.missing.append(youtube_id)
            continue
        record = Record(f"audioset/{youtube_id}_{start:g}", str(path), split=split)
        record.source, record.labels = f"youtube/{youtube_id}", tuple(names.get(mid, mid) for mid in mids)
        if not is_cut:
            record.start, record.duration = start, end - start
        collection.records.append(record)
    return collection
