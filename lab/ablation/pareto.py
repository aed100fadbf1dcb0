"""Plot quality against latency."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.transforms import Bbox

from lab.plotting import saved

OFFSETS = ((6, 4), (6, -11), (6, 14), (-6, 4), (-6, -11))  # offsets of a name from its point, in typographic points


@dataclass(frozen=True)
class Point:
    """A model or setting with its latency and a metric (lower is better) with its spread over seeds."""

    name: str
    seconds: float
    value: float
    spread: float
    is_model: bool


def front(points: list[Point]) -> list[Point]:
    """Select the Pareto-optimal points, starting with the fastest."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.seconds, each.value)):
        if not best or point.value < best[-1].value:
            best.append(point)
    return best


def plot_pareto(points: list[Point], path: Path, x_title: str, y_title: str) -> None:
    """Draw all points as SVG and connect those on the front. Models and the front are labelled where there is room."""
    best = front(points)
    with saved(path, (9, 5)) as axes:
        axes.set_xscale("log")
        axes.set(xlabel=x_title, ylabel=y_title)
        axes.plot([each.seconds for each in best], [each.value for each in best], "--", color="#0969da", linewidth=1)
        for colour, is_model in (("#8c959f", False), ("#0969da", True)):
            some = [point for point in points if point.is_model == is_model]
            places = [point.seconds for point in some], [point.value for point in some]
            axes.errorbar(*places, [point.spread for point in some], fmt="o", markersize=4, linewidth=1, color=colour)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.figure.canvas.draw()  # computes the final layout
        taken = [axes.transData.transform((point.seconds, point.value)) for point in points]
        boxes: list[Bbox] = []
        for point in sorted(points, key=lambda each: (each not in best, not each.is_model)):  # label the front first
            if not (point.is_model or point in best):
                continue
            for dx, dy in OFFSETS:
                name = axes.annotate(
                    point.name, (point.seconds, point.value), (dx, dy), textcoords="offset points", fontsize=8,
                    ha="left" if dx > 0 else "right",
                )  # fmt: skip
                name.set_in_layout(False)
                box = name.get_window_extent()
                if not any(box.overlaps(other) for other in boxes) and not any(box.contains(*place) for place in taken):
                    boxes.append(box)
                    break
                name.remove()
