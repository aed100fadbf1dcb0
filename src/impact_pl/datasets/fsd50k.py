"""FSD50K: convert its ground truth CSVs and a local folder of its audio to manifest.jsonl.

FSD50K.ground_truth/dev.csv has the columns fname, labels, mids, split (train or val); eval.csv has no split and becomes
`test`. Labels are kept. FSD50K has no captions; --label-captions uses the labels instead. With --info
(FSD50K.metadata/dev_clips_info_FSD50K.json) each record has its licence.

example: impact data fsd50k --csv FSD50K.ground_truth/dev.csv FSD50K.ground_truth/eval.csv \\
             --info FSD50K.metadata/dev_clips_info_FSD50K.json FSD50K.metadata/eval_clips_info_FSD50K.json \\
             --audio FSD50K --out fsd50k.jsonl
"""

from collections.abc import Sequence
from pathlib import Path

from typing_extensions import TypedDict

from impact_pl.data.manifest import Record
from impact_pl.datasets.base import MAX_METADATA_BYTES, Collection, by_stem, names_of, write_collection
from impact_pl.errors import UserError
from impact_pl.files import Row, read_csv, read_json


class ClipInfo(TypedDict):
    """Fields of a clip's metadata; other keys are ignored."""

    license: str


SPLIT_NAMES = {"train": "train", "val": "valid", None: "test"}  # FSD50K's names -> ours


def make_manifest(
    tables: list[Path], audio: Path, out: Path, info: Sequence[Path] = (), label_captions: bool = False
) -> Collection:
    """Write the manifest ``out`` from FSD50K's ground truth and a folder of its audio."""
    rows = [row for path in tables for row in read_csv(path, ["fname", "labels", "mids"])]
    licences = {clip: licence for path in info for clip, licence in read_licences(path).items()}
    collection = collect(rows, by_stem(audio), licences, label_captions)
    return write_collection(collection, out, f"<fname> under {audio}")


def read_licences(path: Path) -> dict[str, str]:
    """Read the clips' licences from their metadata: {"64760": {"license": ..., ...}, ...}.

    Raises:
        UserError: There is no such JSON file.
    """
    expected = 'expected {"<fname>": {"license": ..., ...}, ...}'
    clips = read_json(path, dict[str, ClipInfo], max_bytes=MAX_METADATA_BYTES, remedy=expected)
    return {name: info["license"] for name, info in clips.items()}


def collect(rows: list[Row], files: dict[str, Path], licences: dict[str, str], label_captions: bool) -> Collection:
    collection = Collection()
    for line, row in rows:
        name, split = row["fname"], row.get("split")
        if split not in SPLIT_NAMES:
            raise UserError(f"line {line}: split {split!r} is neither train nor val")
        if name not in files:
            collection.missing.append(name)
            continue
        labels = tuple(row["labels"].split(","))
        record = Record(f"fsd50k/{name}", str(files[name]), caption=names_of(labels) if label_captions else None)
        record.split, record.licence = SPLIT_NAMES[split], licences.get(name, "")
        record.source, record.labels = f"freesound/{name}", labels
        collection.records.append(record)
    return collection
