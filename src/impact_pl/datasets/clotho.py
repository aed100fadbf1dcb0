r"""Clotho: convert its published captions CSV and a local folder of its audio to manifest.jsonl.

The CSV (clotho_captions_development.csv, ..._validation.csv, ..._evaluation.csv) has the columns file_name, caption_1
to caption_5. Each caption becomes a record, so a clip has five records in the manifest, unless --captions 1 draws one.

example: impact data clotho --csv clotho_captions_development.csv --audio clotho/development \
             --split train --out clotho.jsonl
"""

from pathlib import Path

from impact_pl.data.lists import one_of
from impact_pl.data.manifest import Record
from impact_pl.datasets.base import Collection, by_stem, write_collection
from impact_pl.files import Row, read_csv

NUM_CAPTIONS = 5
COLUMNS = [f"caption_{number}" for number in range(1, NUM_CAPTIONS + 1)]


def make_manifest(
    table: Path, audio: Path, out: Path, split: str = "train", num_captions: int = NUM_CAPTIONS
) -> Collection:
    """Write the manifest ``out`` from Clotho's captions of one split and a folder of its audio."""
    rows = read_csv(table, ["file_name", *COLUMNS])
    collection = collect(rows, by_stem(audio), split, num_captions)
    return write_collection(collection, out, f"<file_name> under {audio}")


def collect(rows: list[Row], files: dict[str, Path], split: str, num_captions: int) -> Collection:
    """Collect records named ``clotho/<name>``, with ``#2`` to ``#5`` appended for further captions of a clip."""
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
