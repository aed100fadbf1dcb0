"""Write the performance page from records; all its numbers are computed."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from impact_pl.errors import UserError
from impact_pl.partial import write_whole
from lab.benchmark import tables
from lab.benchmark.plots import plot
from lab.benchmark.record import read_record
from lab.benchmark.tables import Content

INTRODUCTION = """\
# Performance

Made by `python -m lab.benchmark document` from the JSON records in the folder of the same name. Each record names its
command; `make bench` (CPU) and `make bench-gpu` (CUDA) make them again, except what was timed outside.

Times are medians after warm-up, with the variants of a table taking turns. On a CPU, what takes more than 5 s is run
once, without a warm-up. A model that is only named has random weights, in its published size; captions have the lengths
of AudioCaps' captions, and a model with a `text_padding` computes only the text positions that are there: `base` and
`large` in records taken before December 2026 are today's `base_fast` and `large_fast`. The real-time factor is seconds
of decoding per second of sound. **reference engine / this** compares with that engine in float32 in the same run,
**LTH14/mar / this** with what was timed outside. The paper's seconds are for a batch of 8 on one V100.

**(assembled)**: records taken before December 2026 put most generations, and the seconds of encoder and head in all of
them, together from timed encoder passes and head loops instead of running them; where both were done, the assembled
time was between 0.91 and 1.07 of the whole one. The peers' steps are assembled too: the step in the middle is timed and
counted as often as there are steps.
"""
TITLES = {
    "latency": "Latency",
    "throughput": "Throughput",
    "scaling": "Cost by duration",
    "training": "Training",
    "reading": "Reading shards",
    "peers": "Other systems",
    "outside": "Timed outside",
}
TABLES: dict[str, Callable[[Content], str]] = {  # parts with a single table
    "throughput": tables.throughput_table,
    "scaling": tables.scaling_table,
    "reading": tables.data_table,
    "peers": tables.peers_table,
    "outside": tables.outside_table,
}


def write_document(paths: list[Path], out: Path) -> None:
    """Write ``out``, and its pictures into the folder of the same name.

    Raises:
        UserError: There are no records, a file is not a record, or two have the same name (used for pictures).
    """
    if not paths:
        raise UserError("no records to make a document of: give the files that --json wrote")
    records: dict[str, Content] = {}
    for path in paths:
        if path.stem in records:
            raise UserError(f"{path}: another record is called {path.stem} too; rename one of them")
        records[path.stem] = read_record(path)
    machines: dict[str, list[str]] = {}
    for stem, record in records.items():
        machines.setdefault(record["machine"]["name"], []).append(stem)
    lines = [INTRODUCTION]
    for machine, stems in machines.items():
        lines.append(f"## {machine}\n")
        outside = [records[stem] for stem in stems if records[stem]["part"] == "outside"]
        for part in TITLES:
            for stem in stems:
                if records[stem]["part"] == part:
                    lines += section(records[stem], stem, outside, out)
    write_whole(out, "\n".join(lines).rstrip() + "\n")


def section(record: Content, stem: str, outside: list[Content], out: Path) -> list[str]:
    """Write the section of a record: origin, tables, picture."""
    lines = [f"### {TITLES[record['part']]}{title_of(record)}\n", f"`{record['command']}`, {record['taken']}\n"]
    lines += body(record, outside)
    picture = out.with_suffix("") / f"{stem}.svg"
    if plot(record, picture):
        lines.append(f"![{stem}]({os.path.relpath(picture, out.parent)})\n")
    return lines


def body(record: Content, outside: Sequence[Content] = ()) -> list[str]:
    """Write a record's machine and tables; ``outside`` holds records of other implementations, for comparison."""
    part = record["part"]
    lines = [record["how"] if part == "outside" else tables.machine_line(record)]
    if part == "latency":
        lines += [tables.latency_table(record, outside), tables.parts_table(record["rows"])]
    elif part == "training":
        lines.append(tables.training_table(record, outside))
    else:
        lines.append(TABLES[part](record))
    return [line + "\n" for line in lines if line]


def title_of(record: Content) -> str:
    """Build a title that distinguishes a section from others of its part."""
    name = record.get("name") or record["settings"].get("model", "")
    return f": {name}" if name else ""
