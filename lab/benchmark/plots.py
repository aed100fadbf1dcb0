"""Draw a record: bars of seconds per row, or curves where the record varies the batch or the duration."""

from pathlib import Path

from matplotlib.axes import Axes

from lab.benchmark.tables import Content, mark
from lab.markdown import number
from lab.plotting import saved


def plot(record: Content, path: Path) -> bool:
    """Save the plot of a record's rows; False if its part has none."""
    part, rows = record["part"], [row for row in record["rows"] if "seconds" in row and "wait_share" not in row]
    if part not in ("latency", "throughput", "scaling", "training", "peers"):
        return False
    curves = part in ("throughput", "scaling")
    with saved(path, (6, 3.2) if curves else (6, 0.8 + 0.25 * len(rows))) as axes:
        if part == "throughput":
            draw_curves(axes, "batch", [(row, row["batch"] / row["seconds"]) for row in rows], "clips per second")
        elif part == "scaling":
            factors = [(row, row["generation_seconds"] / row["batch"] / row["duration"]) for row in rows]
            draw_curves(axes, "duration", factors, "real-time factor")
        else:
            draw_bars(axes, rows)
    return True


def draw_curves(axes: Axes, x: str, points: list[tuple[Content, float]], y_title: str) -> None:
    """Draw one curve per variant and, if ``x`` is another key, per batch, on logarithmic axes."""
    named = [
        (row["variant"] + ("" if x == "batch" else f", batch {row['batch']}"), row[x], value) for row, value in points
    ]
    for name in dict.fromkeys(name for name, _, _ in named):
        places = sorted((at, value) for other, at, value in named if other == name)
        axes.plot(*zip(*places, strict=True), marker="o", markersize=3, label=name)
    axes.set(xscale="log", yscale="log", xlabel=x if x == "batch" else "seconds of sound", ylabel=y_title)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=8)


def draw_bars(axes: Axes, rows: list[Content]) -> None:
    """Draw the seconds of each row on a logarithmic axis."""
    bars = axes.barh([label(row) for row in rows], [row["seconds"] for row in rows])
    axes.bar_label(bars, [f" {number(row['seconds'])}" for row in rows], fontsize=8)
    axes.set(xscale="log", xlabel="seconds")
    axes.margins(x=0.2)
    axes.invert_yaxis()


def label(row: Content) -> str:
    """Name a row so that it differs from the others of its record."""
    name = f"{row['system']}, {row['precision']}" if "system" in row else row["variant"]
    if "iterations" in row and "system" not in row:
        name += f", {row['iterations']} x {row['diffusion_steps']}{mark(row)}"
    return f"{name}, batch {row['batch']}"
