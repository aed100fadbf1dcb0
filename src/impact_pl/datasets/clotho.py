"""Clotho: its published captions CSV and a local folder of its audio -> manifest.jsonl.

The CSV (clotho_captions_development.csv, ..._validation.csv, ..._evaluation.csv) has the columns file_name, caption_1
to caption_5. Each caption makes a record, so a clip stands five times in the manifest, unless --captions 1 draws one.

example: python -m impact_pl.datasets.clotho --csv clotho_captions_development.csv --audio clotho/development \\
             --split train --out clotho.jsonl
"""

from pathlib import Path

from impact_pl.data.lists import one_of
from impact_pl.data.manifest import SPLITS, Record
from impact_pl.datasets.base import Collection, by_stem, finish, parser_of
from impact_pl.errors import user_errors
from impact_pl.files import Row, read_csv

NUM_CAPTIONS = 5
COLUMNS = [f"caption_{number}" for number in range(1, NUM_CAPTIONS + 1)]


@user_errors
def main(argv: list[str] | None = None) -> None:
    parser = parser_of("impact_pl.datasets.clotho", __doc__)
    parser.add_argument("--csv", type=Path, required=True, help="the captions of one split")
    parser.add_argument("--audio", type=Path, required=True, help="folder of audio files")
    parser.add_argument("--split", choices=SPLITS, default="train", help="of all clips (default: %(default)s)")
    parser.add_argument("--captions", type=int, choices=[1, NUM_CAPTIONS], default=NUM_CAPTIONS, help="of a clip")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    args = parser.parse_args(argv)
    rows = read_csv(args.csv, ["file_name", *COLUMNS])
    finish(collect(rows, by_stem(args.audio), args.split, args.captions), args.out, f"<file_name> under {args.audio}")


def collect(rows: list[Row], files: dict[str, Path], split: str, num_captions: int) -> Collection:
    """Records named ``clotho/<name>``, with ``#2`` to ``#5`` behind the further captions of a clip."""
    collection = Collection()
    for _, row in rows:
        name = Path(row["file_name"]).stem
        if name not in files:
            collection.missing.append(row["file_name"])
            continue
        captions = [row[column].strip() for column in COLUMNS]
        if num_captions == 1:
            captions = [one_of(name, captions)]
        for number, caption in enumerate(captions, start=1):
            identity = f"clotho/{name}" + (f"#{number}" if number > 1 else "")
            record = Record(identity, str(files[name]), caption=caption or None, split=split, source=f"clotho/{name}")
            collection.records.append(record)
    return collection


if __name__ == "__main__":
    main()
