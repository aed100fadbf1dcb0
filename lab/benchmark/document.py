"""The page of performance, made from records: no number in it is typed."""

import os
from collections.abc import Sequence
from pathlib import Path

from impact_pl.errors import UserError
from impact_pl.partial import write_whole
from lab.benchmark import tables
from lab.benchmark.plots import longest, plot, ways
from lab.benchmark.record import read_record

INTRODUCTION = """\
# Performance

Made by `python -m lab.benchmark document` from the records that stand beside it; every record names its command, and
`make bench` (a CPU) or `make bench-gpu` (CUDA) makes them anew, but for what was timed outside.

**Bound** is the time that a part's arithmetic takes at the machine's measured rate of matrix products, or its bytes at
the measured bandwidth, whichever is longer; iterations wait for each other, so theirs add up. Counted is the work that
the algorithm needs (`lab/benchmark/work.py`), not what a program does. Starting operations is what a program
does: **launches** are its operations times the measured cost of starting one, and no part of the bound.
**Guidance** is the second half of a batch, with the null condition: what it adds to a part. **(units)** is put together
from timed iterations (`lab/benchmark/units.py`); without that mark a generation was run to its end. The
second half's time is the difference of two times, and may come out below its bound. Times are medians after warm-ups,
ways taking turns, with random weights where a model is only named, and captions of average length (CAPTION_TOKENS in
`work.py`), of whose text a model with a `text_padding` computes the positions that are there. All are computed by the
reference engine, LTH14/mar and its step, and in records that name no number of them. On a CPU, what
takes more than 5 s is run once, without a warm-up, but for training steps (since 2026-11-27). Ratios are within one
run, but for those to what was timed outside (**reference / this**). The paper's seconds are for a batch of 8 on one
V100.
"""
TITLES = {
    "latency": "Latency",
    "throughput": "Throughput",
    "scaling": "Cost by duration",
    "training": "Training",
    "reading": "Reading shards",
    "precompute": "Making shards",
    "peers": "Other systems",
    "outside": "Timed outside",
}


def write_document(paths: list[Path], out: Path) -> None:
    """Write ``out`` and its pictures, which lie in the folder of the same name beside it.

    Raises:
        ValueError: no records, a file that is none, or two of the same name (pictures are named after it).
    """
    if not paths:
        raise UserError("no records to make a document of: give the files that --json wrote")
    records: dict[str, dict] = {}
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


def section(record: dict, stem: str, outside: list[dict], out: Path) -> list[str]:
    """One record: where it comes from, its tables, its pictures."""
    lines = [f"### {TITLES[record['part']]}{title_of(record)}\n", f"`{record['command']}`, {record['taken']}\n"]
    lines += body(record, outside)
    for path in plot(record, out.with_suffix(""), stem):
        lines.append(f"![{path.stem}]({os.path.relpath(path, out.parent)})\n")
    return lines


def body(record: dict, outside: Sequence[dict] = ()) -> list[str]:
    """A record's machine and tables; ``outside``: records of other implementations, to compare with."""
    part = record["part"]
    lines = [(record["how"] if part == "outside" else tables.machine_lines(record)) + "\n"]
    if part == "latency":
        lines += [tables.rates_table(record) + "\n", tables.latency_table(record, outside) + "\n", *breakdowns(record)]
    elif part == "training":
        lines += [tables.training_table(record, outside) + "\n", tables.waiting_table(record) + "\n"]
    else:
        lines.append(tables.TABLES[part](record) + "\n")
    return lines


def title_of(record: dict) -> str:
    """What tells a section from others of its part."""
    said = record.get("name") or record["settings"].get("model", "")
    return f": {said}" if said else ""


def breakdowns(record: dict) -> list[str]:
    """Where the time goes: of each way's longest generation at the smallest batch."""
    rows = record["rows"]
    batch = min(row["batch"] for row in rows)
    lines = []
    for way in ways(rows):
        row = longest([row for row in rows if row["way"] == way and row["batch"] == batch])
        lines.append(f"Where the time goes, {way}, batch {batch}, {row['iterations']} x {row['diffusion_steps']}:\n")
        lines.append(tables.breakdown_table(row) + "\n")
    return lines
