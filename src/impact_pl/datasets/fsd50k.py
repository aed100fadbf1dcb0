"""FSD50K: its ground truth CSVs and a local folder of its audio -> manifest.jsonl.

FSD50K.ground_truth/dev.csv has the columns fname, labels, mids, split (train or val); eval.csv has no split and becomes
`test`. Labels are kept; FSD50K has no captions, unless --label-captions makes them of the labels. With --info
(FSD50K.metadata/dev_clips_info_FSD50K.json) each record has its licence.

example: python -m impact_pl.datasets.fsd50k --csv FSD50K.ground_truth/dev.csv FSD50K.ground_truth/eval.csv \\
             --info FSD50K.metadata/dev_clips_info_FSD50K.json FSD50K.metadata/eval_clips_info_FSD50K.json \\
             --audio FSD50K --out fsd50k.jsonl
"""

from pathlib import Path

from typing_extensions import TypedDict

from impact_pl.data.manifest import Record
from impact_pl.datasets.base import MAX_METADATA_BYTES, Collection, by_stem, finish, names_of, parser_of
from impact_pl.errors import UserError, user_errors
from impact_pl.files import Row, read_csv, read_json


class ClipInfo(TypedDict):
    """What is used of a clip's metadata; other keys are ignored."""

    license: str


SPLIT_NAMES = {"train": "train", "val": "valid", None: "test"}  # FSD50K's -> ours


@user_errors
def main(argv: list[str] | None = None) -> None:
    parser = parser_of("impact_pl.datasets.fsd50k", __doc__)
    parser.add_argument("--csv", type=Path, nargs="+", required=True, help="dev.csv, eval.csv or both")
    parser.add_argument("--audio", type=Path, required=True, help="folder of audio files")
    parser.add_argument("--info", type=Path, nargs="+", default=[], help="*_clips_info_FSD50K.json, for the licences")
    parser.add_argument("--label-captions", action="store_true", help="the labels' names are the caption")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    args = parser.parse_args(argv)
    rows = [row for path in args.csv for row in read_csv(path, ["fname", "labels", "mids"])]
    licences = {clip: licence for path in args.info for clip, licence in read_licences(path).items()}
    collection = collect(rows, by_stem(args.audio), licences, args.label_captions)
    finish(collection, args.out, f"<fname> under {args.audio}")


def read_licences(path: Path) -> dict[str, str]:
    """Read the clips' licences from their metadata: {"64760": {"license": ..., ...}, ...}.

    Raises:
        UserError: no such JSON file.
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


if __name__ == "__main__":
    main()
