"""Measurements as Markdown. Every number comes from a record; the paper's own stand in ``evaluation.published``."""

from collections.abc import Iterable, Sequence

from impact_pl.evaluation.report.published import ITERATION_LATENCY, SYSTEMS

PAPER_BATCH = 8  # of its latencies, on one V100
PAPER_STEPS = 100
PAPER_MODEL = "base"
PAPER_DURATION = 10.24
PUBLISHED = {"AudioLDM2": "AudioLDM2-full", "Tango": "Tango, 866 M", "MAGNeT-small-shaped": "MAGNeT-S"}


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def number(value: float | None, digits: int = 3) -> str:
    """With so many significant digits, and none behind the point that say nothing; empty for None."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return f"{value:.6f}".rstrip("0") if "e" in text else text


def machine_lines(record: dict) -> str:
    """What it ran on."""
    machine = record["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    where = f"{machine['name']}, {machine['memory_bytes'] / 2**30:.0f} GiB"
    if machine["device"] != "cpu":
        where += f"; host {machine['processor']}"
    line = f"{where}; {machine['cores']} core(s), {machine['threads']} thread(s); {versions}; code {machine['code']}"
    computed, there = record["settings"].get("text_positions", (0, 0))
    return line + (f"; a caption's text at {computed} of {there} positions" if there else "")


def rates_table(record: dict) -> str:
    """What its bounds are made of."""
    rates = record["rates"]
    rows = [[f"products, {way}", f"{number(rate / 1e9)} GFLOP/s"] for way, rate in rates["ways"].items()]
    for size, rate in rates["bandwidth"].items():
        rows.append([f"reading {int(size) / 2**20:.0f} MiB again and again", f"{number(rate / 1e9)} GB/s"])
    rows.append(["starting an operation", f"{number(rates['launch'] * 1e6)} µs"])
    return table(["what", "measured"], rows)


def reference_engine_of(row: dict, rows: list[dict]) -> dict | None:
    """The row of the reference engine in float32 that does the same work for the same batch; a preset's is its own."""
    if row["preset"]:
        return None
    same = ("batch", "duration", "iterations", "diffusion_steps")
    for other in rows:
        is_reference = other["engine"] == "reference" and other["precision"] == "32-true" and not other["preset"]
        if is_reference and (all(other[key] == row[key] for key in same)):
            return other
    return None


def of_model(record: dict, outside: Sequence[dict]) -> list[dict]:
    """Those of ``outside`` that are of the record's model."""
    return [other for other in outside if other["settings"]["model"] == record["settings"]["model"]]


def reference_of(row: dict, outside: Sequence[dict], same: Sequence[str]) -> float | None:
    """Seconds of an implementation that was timed elsewhere, at its best, where ``same`` is the same."""
    found = [other for record in outside for other in record["rows"] if all(other.get(key) == row[key] for key in same)]
    whole = [other["seconds"] for other in found if other["whole"]]
    return min(whole or [other["seconds"] for other in found], default=None)


def published_seconds(row: dict, settings: dict) -> float | None:
    """The paper's, for the same work alone: its base model as it is, 10.24 s of sound, 8 clips, 100 steps."""
    same_model = settings["model"] == PAPER_MODEL and not settings["set"] and not row["preset"]
    sizes = row["batch"], row["diffusion_steps"], row["duration"]
    same = same_model and sizes == (PAPER_BATCH, PAPER_STEPS, PAPER_DURATION)
    return ITERATION_LATENCY.get(row["iterations"]) if same else None


def latency_table(record: dict, outside: Sequence[dict] = ()) -> str:
    """Seconds of a generation, from condition to latents, and with what stands around it."""
    rows, outside = record["rows"], of_model(record, outside)
    lines = []
    for row in sorted(rows, key=lambda row: (row["batch"], -row["iterations"])):
        slow = reference_engine_of(row, rows)
        same = ("batch", "duration", "iterations", "diffusion_steps")
        reference = None if row["preset"] else reference_of(row, outside, same)
        seconds = row["generation_seconds"]
        lines.append(
            [
                row["way"],
                str(row["batch"]),
                f"{row['iterations']} x {row['diffusion_steps']}",
                number(seconds) + ("" if row["whole"] else " (units)"),
                number(row["seconds"]),
                number(row["bound_seconds"]),
                number(row["seconds"] / row["bound_seconds"]),
                number(slow["generation_seconds"] / seconds if slow else None),
                number(reference / seconds if reference else None),
                number(published_seconds(row, record["settings"])),
            ]
        )
    columns = ["way", "batch", "T x steps", "generation, s", "with text and codec, s", "bound, s", "times the bound"]
    return table([*columns, "reference engine / this", "LTH14/mar / this", "paper's V100, s"], lines)


def breakdown_table(row: dict) -> str:
    """Where the time of one row goes."""
    lines = []
    for name, part in row["parts"].items():
        seconds = [part["compute_seconds"], part["memory_seconds"], part["launch_seconds"], part["bound_seconds"]]
        work = [number(part["flops"] / 1e12), number(part["bytes"] / 1e9), number(part["launches"], 4)]
        cells = [number(part["seconds"]), *work, *map(number, seconds), number(part["ratio"])]
        lines.append([name, *cells, part["limited_by"] or ""])
    columns = ["part", "measured, s", "TFLOP", "GB", "operations", "arithmetic, s", "memory, s", "launches, s"]
    return table([*columns, "bound, s", "times the bound", "limited by"], lines)


def throughput_table(record: dict) -> str:
    """Clips a second by batch."""
    rows = record["rows"]
    batches = sorted({row["batch"] for row in rows})
    lines = []
    for way in dict.fromkeys(row["way"] for row in rows):
        of = {row["batch"]: row["batch"] / row["seconds"] for row in rows if row["way"] == way}
        lines.append([way, *(number(of.get(batch)) for batch in batches)])
    return table(["clips/s at batch", *map(str, batches)], lines)


def scaling_table(record: dict) -> str:
    """Seconds of a generation by duration, for each batch."""
    rows = record["rows"]
    durations = sorted({row["duration"] for row in rows})
    lines = []
    for way, batch in dict.fromkeys((row["way"], row["batch"]) for row in rows):
        of = {row["duration"]: row for row in rows if (row["way"], row["batch"]) == (way, batch)}
        cells = [number(of[each]["generation_seconds"]) if each in of else "" for each in durations]
        lines.append([f"{way}, batch {batch}", *cells])
    return table(["seconds, for a clip of", *(f"{each:g} s" for each in durations)], lines)


def training_table(record: dict, outside: Sequence[dict] = ()) -> str:
    """Clips a second, memory and utilisation of each way to make a step."""
    rows, outside = [row for row in record["rows"] if "way" in row], of_model(record, outside)
    first = rows[0]["clips_per_second"]
    lines = []
    for row in rows:
        shares = [row["utilisation"], row["peak_utilisation"]]
        done = row | {"training": True, "duration": record["settings"]["duration"]}
        reference = reference_of(done, outside, ("training", "batch", "duration"))
        cells = [
            row["seconds"],
            row["clips_per_second"],
            row["clips_per_second"] / first,
            reference / row["seconds"] if reference else None,
            row["kept_bytes"] / row["batch"] / 2**20,
            row["peak_bytes"] / 2**30 if row["peak_bytes"] else None,
        ]
        percent = ["" if share is None else f"{100 * share:.0f} %" for share in shares]
        lines.append([row["way"], str(row["batch"]), *map(number, cells), *percent])
    columns = ["step", "batch", "s", "clips/s", "times the first", "reference / this", "kept for backward, MiB a clip"]
    return table([*columns, "peak, GiB", "of measured products", "of the data sheet's"], lines)


def waiting_table(record: dict) -> str:
    """Share of training that waits for data; empty where it was not measured."""
    rows = [row for row in record["rows"] if "wait_share" in row]
    lines = [[str(row["workers"]), number(row["seconds"]), f"{100 * row['wait_share']:.2f} %"] for row in rows]
    return table(["DataLoader processes", "s a step", "waiting for data"], lines) if rows else ""


def data_table(record: dict) -> str:
    """Reading or precomputing."""
    columns = list(dict.fromkeys(key for row in record["rows"] for key in row["times"]))
    lines = []
    for row in record["rows"]:
        rates = f"{row['clips_per_second']:.0f}", f"{row['bytes_per_second'] / 1e6:.1f}"
        times = [f"{row['times'][key]:.2f}" if key in row["times"] else "" for key in columns]
        lines.append([row["way"], *rates, *times])
    return table(["way", "clips/s", "MB/s", *(f"times {key}" for key in columns)], lines)


def peers_table(record: dict) -> str:
    """Systems beside each other, the slowest first."""
    published = {system.name: system.latency for system in SYSTEMS}
    rows = sorted(record["rows"], key=lambda row: (row["batch"], -row["seconds"]))
    lines = []
    for row in rows:
        latency = published.get(PUBLISHED.get(row["system"], ""))
        size = number(row["parameters"] / 1e6)
        measured = str(row["steps"]) if row["whole"] else f"{row['steps']} (units)"
        seconds = [row["steps_seconds"], row["sound_seconds"], row["seconds"]]
        paper = number(latency) if row["batch"] == PAPER_BATCH else ""
        lines.append([f"{row['system']}, {row['precision']}", str(row["batch"]), size, measured])
        lines[-1] += [*map(number, seconds), number(row["seconds"] / row["batch"]), paper]
    columns = ["system", "batch", "M parameters", "steps", "steps, s", "to sound, s", "together, s", "a clip, s"]
    return table([*columns, "paper's V100, s"], lines)


def outside_table(record: dict) -> str:
    """An implementation that was timed by other means."""
    lines = []
    for row in record["rows"]:
        size = f"{row.get('iterations')} x {row.get('diffusion_steps')}"
        what = "training step" if row.get("training") else f"generation, {size}"
        how = "whole" if row["whole"] else "units"
        sizes = [str(row["batch"]), f"{row['duration']:g}"]
        lines.append([what, *sizes, row["precision"], number(row["seconds"]), how])
    return table(["what", "batch", "s of sound", "precision", "s", "measured"], lines)


TABLES = {  # part -> its only table
    "throughput": throughput_table,
    "scaling": scaling_table,
    "reading": data_table,
    "precompute": data_table,
    "peers": peers_table,
    "outside": outside_table,
}
