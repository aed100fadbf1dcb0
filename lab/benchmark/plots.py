"""Measurements as pictures: small SVG files with text as text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from lab.benchmark.tables import number

STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "impact", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}
PARTS = ("text", "encoder", "encoder, guidance", "head", "head, guidance", "codec", "rest")
COLOURS = dict(zip(PARTS, ("#8c8c8c", "#1f5fa8", "#7fb0e6", "#c2452d", "#f0a08d", "#3f8f4f", "#d9c65b"), strict=True))


def plot(record: dict, folder: Path, stem: str) -> list[Path]:
    """The pictures of a record, below ``folder``, their names starting with ``stem``; none where its part has none."""
    made = []
    for name, draw, size in PLOTS.get(record["part"], ()):
        with plt.rc_context(STYLE):
            figure, axes = plt.subplots(figsize=size, layout="constrained")
            draw(record["rows"], axes)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{stem}-{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            plt.close(figure)
            made.append(path)
    return made


def curves(rows: list[dict], axes: Axes, x: str, y: Callable[[dict], float], line: Callable[[dict], str]) -> None:
    """One curve for each ``line``, both axes logarithmic."""
    for name in dict.fromkeys(map(line, rows)):
        points = sorted((row[x], y(row)) for row in rows if line(row) == name)
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({row[x] for row in rows})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=8)


def iterations(rows: list[dict], axes: Axes) -> None:
    """Seconds by iterations."""
    free = [row for row in rows if not row["preset"]]
    curves(free, axes, "iterations", lambda row: row["seconds"], lambda row: f"{row['way']}, batch {row['batch']}")
    axes.set(xlabel="iterations", ylabel="seconds of a batch, with text and codec")


def breakdown(rows: list[dict], axes: Axes) -> None:
    """Seconds by part, of each way's longest generation at the smallest batch."""
    batch = min(row["batch"] for row in rows)
    chosen = [longest([row for row in rows if row["batch"] == batch and row["way"] == way]) for way in ways(rows)]
    left = [0.0] * len(chosen)
    names = [f"{row['way']}\n{row['iterations']} x {row['diffusion_steps']}" for row in chosen]
    for part in PARTS:
        seconds = [max(0.0, row["parts"].get(part, {"seconds": 0.0})["seconds"]) for row in chosen]
        axes.barh(names, seconds, left=left, color=COLOURS[part], label=part)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    axes.plot([row["bound_seconds"] for row in chosen], names, "k|", markersize=16, label="bound")
    axes.invert_yaxis()
    axes.set(xlabel=f"seconds of a batch of {batch}")
    axes.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.4, -0.18))


def ways(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(row["way"] for row in rows))


def longest(rows: list[dict]) -> dict:
    return max(rows, key=lambda row: row["iterations"])


def throughput(rows: list[dict], axes: Axes) -> None:
    """Clips a second by batch."""
    curves(rows, axes, "batch", lambda row: row["batch"] / row["seconds"], lambda row: row["way"])
    axes.set(xlabel="batch", ylabel="clips a second")


def duration(rows: list[dict], axes: Axes) -> None:
    """Seconds of computing for a second of sound, by duration."""

    def cost(row: dict) -> float:
        return row["generation_seconds"] / row["batch"] / row["duration"]

    curves(rows, axes, "duration", cost, lambda row: f"{row['way']}, batch {row['batch']}")
    axes.set(xlabel="seconds of sound", ylabel="computing, s per second of sound")


def training(rows: list[dict], axes: Axes) -> None:
    """Clips a second of each way to make a step."""
    rows = [row for row in rows if "way" in row]
    axes.barh([row["way"] for row in rows], [row["clips_per_second"] for row in rows], color=COLOURS["encoder"])
    axes.invert_yaxis()
    axes.set(xlabel="clips a second")


def peers(rows: list[dict], axes: Axes) -> None:
    """Seconds of each system at the smallest batch, on a logarithmic axis."""
    batch = min(row["batch"] for row in rows)
    chosen = sorted((row for row in rows if row["batch"] == batch), key=lambda row: -row["seconds"])
    names = [f"{row['system']}, {row['precision']}" for row in chosen]
    colours = [COLOURS["head"] if row.get("ours") else COLOURS["encoder"] for row in chosen]
    bars = axes.barh(names, [row["seconds"] for row in chosen], color=colours)
    axes.bar_label(bars, [f" {number(row['seconds'])}" for row in chosen], fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.invert_yaxis()
    axes.set(xlabel=f"seconds for a batch of {batch}, 10 s of sound each")


PLOTS: dict[str, tuple] = {  # part -> (name, drawing, inches)
    "latency": (("iterations", iterations, (6, 3.2)), ("parts", breakdown, (6, 3.4))),
    "throughput": (("batch", throughput, (6, 3.2)),),
    "scaling": (("duration", duration, (6, 3.2)),),
    "training": (("steps", training, (6, 3)),),
    "peers": (("systems", peers, (6, 4)),),
}
