"""ESC-50: its meta/esc50.csv and a local folder of its audio -> manifest.jsonl.

The CSV has the columns filename, fold, target, category, esc10, src_file, take. Clips of one recording are in one fold,
so splits are made of folds. The category is the record's label; ESC-50 has no captions, unless --label-captions makes
them of the labels ("crying baby").

example: python -m impact_pl.datasets.esc50 --csv ESC-50-master/meta/esc50.csv --audio ESC-50-master/audio \\
             --valid-fold 4 --test-fold 5 --out esc50.jsonl
"""

from pathlib import Path

from impact_pl.data.manifest import Record
from impact_pl.datasets.base import Collection, by_stem, finish, names_of, parser_of
from impact_pl.errors import UserError, user_errors
from impact_pl.files import Row, read_csv

FOLDS = range(1, 6)


@user_errors
def main(argv: list[str] | None = None) -> None:
    parser = parser_of("impact_pl.datasets.esc50", __doc__)
    parser.add_argument("--csv", type=Path, required=True, help="meta/esc50.csv")
    parser.add_argument("--audio", type=Path, required=True, help="folder of audio files")
    parser.add_argument(
        "--valid-fold", type=int, choices=FOLDS, default=4, help="for validation (default: %(default)s)"
    )
    parser.add_argument("--test-fold", type=int, choices=FOLDS, default=5, help="for tests (default: %(default)s)")
    parser.add_argument("--esc10", action="store_true", help="only the clips of ESC-10")
    parser.add_argument("--label-captions", action="store_true", help="the category's name is the caption")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    args = parser.parse_args(argv)
    if args.valid_fold == args.test_fold:
        raise UserError(f"--valid-fold and --test-fold are both {args.test_fold}: choose two folds")
    rows = read_csv(args.csv, ["filename", "fold", "category", "esc10", "src_file"])
    rows = [row for row in rows if not args.esc10 or row.cells["esc10"] == "True"]
    split_of_fold = {args.valid_fold: "valid", args.test_fold: "test"}
    collection = collect(rows, by_stem(args.audio), split_of_fold, args.label_captions)
    finish(collection, args.out, f"<filename> under {args.audio}")


def collect(rows: list[Row], files: dict[str, Path], split_of_fold: dict[int, str], label_captions: bool) -> Collection:
    """Records named ``esc50/<filename>``; the source is the Freesound clip that a sound was cut from."""
    collection = Collection()
    for line, row in rows:
        name = Path(row["filename"]).stem
        if not row["fold"].isdecimal() or int(row["fold"]) not in FOLDS:
            raise UserError(f"line {line}: fold {row['fold']!r} is none of 1 to 5")
        if name not in files:
            collection.missing.append(row["filename"])
            continue
        labels = (row["category"],)
        record = Record(f"esc50/{name}", str(files[name]), caption=names_of(labels) if label_captions else None)
        record.split = split_of_fold.get(int(row["fold"]), "train")
        record.source, record.labels = f"freesound/{row['src_file']}", labels
        collection.records.append(record)
    return collection


if __name__ == "__main__":
    main()
