"""ESC-50: convert its meta/esc50.csv and a local folder of its audio to manifest.jsonl.

The CSV has the columns filename, fold, target, category, esc10, src_file, take. Clips of one recording are in one fold,
so folds are assigned to splits. The category is the record's label. ESC-50 has no captions; --label-captions uses the
labels instead ("crying baby").

example: impact data esc50 --csv ESC-50-master/meta/esc50.csv --audio ESC-50-master/audio \\
             --valid-fold 4 --test-fold 5 --out esc50.jsonl
"""

from pathlib import Path

from impact_pl.data.manifest import Record
from impact_pl.datasets.base import Collection, by_stem, names_of, write_collection
from impact_pl.errors import UserError
from impact_pl.files import Row, read_csv

FOLDS = range(1, 6)


def make_manifest(
    table: Path,
    audio: Path,
    out: Path,
    valid_fold: int = 4,
    test_fold: int = 5,
    esc10: bool = False,
    label_captions: bool = False,
) -> Collection:
    """Write the manifest ``out`` from meta/esc50.csv and a folder of its audio; ``esc10``: only the clips of ESC-10."""
    if valid_fold == test_fold:
        raise UserError(f"--valid-fold and --test-fold are both {test_fold}: choose two folds")
    rows = read_csv(table, ["filename", "fold", "category", "esc10", "src_file"])
    rows = [row for row in rows if not esc10 or row.cells["esc10"] == "True"]
    collection = collect(rows, by_stem(audio), {valid_fold: "valid", test_fold: "test"}, label_captions)
    return write_collection(collection, out, f"<filename> under {audio}")


def collect(rows: list[Row], files: dict[str, Path], split_of_fold: dict[int, str], label_captions: bool) -> Collection:
    """Collect records named ``esc50/<filename>``. The source is the Freesound clip that a sound was cut from."""
    collection = Collection()
    for line, row in rows:
        name = Path(row["filename"]).stem
        if not row["fold"].isdecimal() or int(row["fold"]) not in FOLDS:
            raise UserError(f"line {line}: fold {row['fold']!r} is not in 1 to 5")
        if name not in files:
            collection.missing.append(row["filename"])
            continue
        labels = (row["category"],)
        record = Record(f"esc50/{name}", str(files[name]), caption=names_of(labels) if label_captions else None)
        record.split = split_of_fold.get(int(row["fold"]), "train")
        record.source, record.labels = f"freesound/{row['src_file']}", labels
        collection.records.append(record)
    return collection
