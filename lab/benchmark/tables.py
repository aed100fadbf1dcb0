"""Measurements as Markdown tables: every number is of a record, the paper's of ``evaluation.report.published``."""

from collections.abc import Sequence
from typing import Any

from impact_pl.evaluation.report.published import ITERATION_LATENCY, SYSTEMS
from lab.markdown import number, table

PAPER_BATCH = 8  # of its latencies, on one V100
PAPER_STEPS = 100
PAPER_MODEL = "base"
PAPER_DURATION = 10.24
PUBLISHED = {"AudioLDM2": "AudioLDM2-full", "Tango": "Tango, 866 M", "MAGNeT-small-shaped": "MAGNeT-S"}
Content = dict[str, Any]  # of a record, or of one of its rows


def machine_line(record: Content) -> str:
    """What the record was measured on."""
    machine = record["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    where = f"{machine['name']}, {machine['memory_bytes'] / 2**30:.0f} GiB"
    if machine["device"] != "cpu":
        where += f"; host {machine['processor']}"
    line = f"{where}; {machine['cores']} core(s), {machine['threads']} thread(s); {versions}; code {machine['code']}"
    computed, there = record["settings"].get("text_positions", (0, 0))
    return line + (f"; a caption's text at {computed} of {there} positions" if there else "")


def reference_row(row: Content, rows: list[Content]) -> Content | None:
    """The row of the reference engine in float32 that does the same work for the same batch; a preset has none."""
    if row["preset"]:
        return None
    same = ("batch", "duration", "iterations", "diffusion_steps")
    for other in rows:
        is_reference = other["engine"] == "reference" and other["precision"] == "32-true" and not other["preset"]
        if is_reference and all(other[key] == row[key] for key in same):
            return other
    return None


def of_model(record: Content, outside: Sequence[Content]) -> list[Content]:
    """Those of ``outside`` that are of the record's model."""
    return [other for other in outside if other["settings"]["model"] == record["settings"]["model"]]


def outside_seconds(row: Content, outside: Sequence[Content], same: Sequence[str]) -> float | None:
    """Seconds of an implementation that was timed elsewhere, at its best, where the keys ``same`` are equal."""
    found = [other for record in outside for other in record["rows"] if all(other.get(key) == row[key] for key in same)]
    whole = [other["seconds"] for other in found if other["whole"]]
    return min(whole or [other["seconds"] for other in found], default=None)


def published_seconds(row: Content, settings: Content) -> float | None:
    """The paper's latency, for the same work only: its base model as it is, 10.24 s of sound, 8 clips, 100 steps."""
    same_model = settings["model"] == PAPER_MODEL and not settings["set"] and not row["preset"]
    sizes = row["batch"], row["diffusion_steps"], row["duration"]
    same = same_model and sizes == (PAPER_BATCH, PAPER_STEPS, PAPER_DURATION)
    return ITERATION_LATENCY.get(row["iterations"]) if same else None


def latency_table(record: Content, outside: Sequence[Content] = ()) -> str:
    """Seconds of a generation, alone and with text encoder and codec."""
    rows, outside = record["rows"], of_model(record, outside)
    lines = []
    for row in sorted(rows, key=lambda row: (row["batch"], -row["iterations"])):
        reference = reference_row(row, rows)
        same = ("batch", "duration", "iterations", "diffusion_steps")
        theirs = None if row["preset"] else outside_seconds(row, outside, same)
        seconds = row["generation_seconds"]
        cells = [
            number(seconds) + mark(row),
            number(row["seconds"]),
            number(seconds / row["batch"] / row["duration"]),
            number(reference["generation_seconds"] / seconds if reference else None),
            number(theirs / seconds if theirs else None),
            number(published_seconds(row, record["settings"])),
        ]
        lines.append([row["variant"], str(row["batch"]), f"{row['iterations']} x {row['diffusion_steps']}", *cells])
    columns = ["variant", "batch", "T x steps", "generation, s", "with text and codec, s", "real-time factor"]
    return table([*columns, "reference engine / this", "LTH14/mar / this", "paper's V100, s"], lines)


def mark(row: Content) -> str:
    return "" if row["whole"] else " (assembled)"


def parts_table(rows: list[Content]) -> str:
    """Seconds of each part of a generation; empty where no row has them."""
    rows = [row for row in rows if "encoder" in row["parts"]]
    parts = list(dict.fromkeys(part for row in rows for part in row["parts"]))
    lines = [
        [
            f"{row['variant']}, batch {row['batch']}, {row['iterations']} x {row['diffusion_steps']}{mark(row)}",
            *(number(row["parts"].get(part)) for part in parts),
        ]
        for row in rows
    ]
    return table(["seconds of", *parts], lines) if rows else ""


def throughput_table(record: Content) -> str:
    """Clips per second by batch."""
    rows = record["rows"]
    batches = sorted({row["batch"] for row in rows})
    lines = []
    for name in dict.fromkeys(row["variant"] + mark(row) for row in rows):
        rates = {row["batch"]: row["batch"] / row["seconds"] for row in rows if row["variant"] + mark(row) == name}
        lines.append([name, *(number(rates.get(batch)) for batch in batches)])
    return table(["clips/s at batch", *map(str, batches)], lines)


def scaling_table(record: Content) -> str:
    """Seconds of a generation by audio duration, for each batch."""
    rows = record["rows"]
    durations = sorted({row["duration"] for row in rows})
    lines = []
    for name in dict.fromkeys(f"{row['variant']}, batch {row['batch']}{mark(row)}" for row in rows):
        seconds = {
            row["duration"]: row["generation_seconds"]
            for row in rows
            if f"{row['variant']}, batch {row['batch']}{mark(row)}" == name
        }
        lines.append([name, *(number(seconds.get(each)) for each in durations)])
    return table(["seconds, for a clip of", *(f"{each:g} s" for each in durations)], lines)


def training_table(record: Content, outside: Sequence[Content] = ()) -> str:
    """Clips per second, memory and utilization of each variant of a training step."""
    rows, outside = [row for row in record["rows"] if "variant" in row], of_model(record, outside)
    first = rows[0]["clips_per_second"]
    lines = []
    for row in rows:
        shares = [row["utilisation"], row["peak_utilisation"]]
        done = row | {"training": True, "duration": record["settings"]["duration"]}
        theirs = outside_seconds(done, outside, ("training", "batch", "duration"))
        cells = [
            row["seconds"],
            row["clips_per_second"],
            row["clips_per_second"] / first,
            theirs / row["seconds"] if theirs else None,
            row["kept_bytes"] / row["batch"] / 2**20,
            row["peak_bytes"] / 2**30 if row["peak_bytes"] else None,
        ]
        percent = ["" if share is None else f"{100 * share:.0f} %" for share in shares]
        lines.append([row["variant"], str(row["batch"]), *map(number, cells), *percent])
    columns = [
        "step",
        "batch",
        "s",
        "clips/s",
        "times the first",
        "reference / this",
        "kept for backward, MiB per clip",
    ]
    return table([*columns, "peak, GiB", "of measured products", "of the data sheet's"], lines)


def data_table(record: Content) -> str:
    """Rates of each way to read shards."""
    columns = list(dict.fromkeys(key for row in record["rows"] for key in row["times"]))
    lines = []
    for row in record["rows"]:
        rates = f"{row['clips_per_second']:.0f}", f"{row['bytes_per_second'] / 1e6:.1f}"
        times = [f"{row['times'][key]:.2f}" if key in row["times"] else "" for key in columns]
        lines.append([row["variant"], *rates, *times])
    return table(["variant", "clips/s", "MB/s", *(f"times {key}" for key in columns)], lines)


def peers_table(record: Content) -> str:
    """Systems next to each other, the slowest first."""
    published = {system.name: system.latency for system in SYSTEMS}
    rows = sorted(record["rows"], key=lambda row: (row["batch"], -row["seconds"]))
    lines = []
    for row in rows:
        latency = published.get(PUBLISHED.get(row["system"], ""))
        steps = str(row["steps"]) + ("" if row["whole"] else " (assembled)")
        seconds = [row["steps_seconds"], row["sound_seconds"], row["seconds"], row["seconds"] / row["batch"]]
        paper = number(latency) if row["batch"] == PAPER_BATCH else ""
        name, size = f"{row['system']}, {row['precision']}", number(row["parameters"] / 1e6)
        lines.append([name, str(row["batch"]), size, steps, *map(number, seconds), paper])
    columns = ["system", "batch", "M parameters", "steps", "steps, s", "decoding to sound, s", "sum, s", "per clip, s"]
    return table([*columns, "paper's V100, s"], lines)


def outside_table(record: Content) -> str:
    """An implementation that was timed by other means."""
    lines = []
    for row in record["rows"]:
        size = f"{row.get('iterations')} x {row.get('diffusion_steps')}"
        what = "training step" if row.get("training") else f"generation, {size}"
        how = "whole" if row["whole"] else "assembled"
        lines.append([what, str(row["batch"]), f"{row['duration']:g}", row["precision"], number(row["seconds"]), how])
    return table(["what", "batch", "s of sound", "precision", "s", "measured"], lines)
