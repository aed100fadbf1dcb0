"""Measurements as plots."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from lab.benchmark.tables import Content, mark
from lab.markdown import number
from lab.plotting import saved

PARTS = ("text", "encoder", "head", "codec", "rest")
COLOURS = dict(zip(PARTS, ("#8c8c8c", "#1f5fa8", "#c2452d", "#3f8f4f", "#d9c65b"), strict=True))
Draw = Callable[[list[Content], Axes], None]


def plot(record: Content, folder: Path, stem: str) -> list[Path]:
    """The plots of a record, in ``folder``, their names starting with ``stem``; none where its part has none."""
    made = []
    for name, draw, size in PLOTS.get(record["part"], ()):
        path = folder / f"{stem}-{name}.svg"
        with saved(path, size) as axes:
            draw(record["rows"], axes)
        made.append(path)
    return made


def curves(
    rows: list[Content], axes: Axes, x: str, y: Callable[[Content], float], line: Callable[[Content], str]
) -> None:
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


def iterations(rows: list[Content], axes: Axes) -> None:
    """Seconds by iterations."""
    free = [row for row in rows if not row["preset"]]
    curves(free, axes, "iterations", lambda row: row["seconds"], lambda row: f"{row['variant']}, batch {row['batch']}")
    axes.set(xlabel="iterations", ylabel="seconds of a batch, with text and codec")


def breakdown(rows: list[Content], axes: Axes) -> None:
    """Seconds by part, where they were measured."""
    chosen = [row for row in rows if "encoder" in row["parts"] and row["batch"] == rows[0]["batch"]]
    names = [f"{row['variant']}\n{row['iterations']} x {row['diffusion_steps']}{mark(row)}" for row in chosen]
    left = [0.0] * len(chosen)
    for part in PARTS:
        seconds = [row["parts"].get(part, 0.0) for row in chosen]
        axes.barh(names, seconds, left=left, color=COLOURS[part], label=part)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel=f"seconds of a batch of {rows[0]['batch']}")
    axes.legend(fontsize=7, ncols=len(PARTS), loc="upper center", bbox_to_anchor=(0.4, -0.18))


def throughput(rows: list[Content], axes: Axes) -> None:
    """Clips per second by batch."""
    curves(rows, axes, "batch", lambda row: row["batch"] / row["seconds"], lambda row: row["variant"])
    axes.set(xlabel="batch", ylabel="clips per second")


def duration(rows: list[Content], axes: Axes) -> None:
    """Real-time factor by audio duration."""

    def cost(row: Content) -> float:
        return row["generation_seconds"] / row["batch"] / row["duration"]

    curves(rows, axes, "duration", cost, lambda row: f"{row['variant']}, batch {row['batch']}")
    axes.set(xlabel="seconds of sound", ylabel="real-time factor")


def training(rows: list[Content], axes: Axes) -> None:
    """Clips per second of each variant of a training step."""
    rows = [row for row in rows if "variant" in row]
    axes.barh([row["variant"] for row in rows], [row["clips_per_second"] for row in rows], color=COLOURS["encoder"])
    axes.invert_yaxis()
    axes.set(xlabel="clips per second")


def peers(rows: list[Content], axes: Axes) -> None:
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


PLOTS: dict[str, tuple[tuple[str, Draw, tuple[float, float]], ...]] = {  # part -> (name, drawing, inches)
    "latency": (("iterations", iterations, (6, 3.2)), ("parts", breakdown, (6, 3.4))),
    "throughput": (("batch", throughput, (6, 3.2)),),
    "scaling": (("duration", duration, (6, 3.2)),),
    "training": (("steps", training, (6, 3)),),
    "peers": (("systems", peers, (6, 4)),),
}
