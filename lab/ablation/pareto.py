"""The Pareto plot of quality against latency, as an SVG that needs nothing beside it and follows light and dark."""

import math
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 880, 480
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 16, 44  # margins
CHARACTER, LINE = 6.4, 14  # of a label, in pixels
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#57606a}.name{fill:#1f2328}.grid{stroke:#d8dee4}"
    ".front{fill:none;stroke:#0969da;stroke-width:1.5;stroke-dasharray:5 4}.bar{stroke:#8c959f}"
    ".setting{fill:#8c959f}.row{fill:#0969da}.best{stroke:#0969da;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#8b949e}.name{fill:#e6edf3}.grid{stroke:#30363d}"
    ".front{stroke:#58a6ff}.row{fill:#58a6ff}.best{stroke:#58a6ff}}"
)
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """A row or setting: its latency, and a figure of which less is better, with its spread over seeds."""

    name: str
    seconds: float
    value: float
    spread: float
    is_row: bool


def front(points: list[Point]) -> list[Point]:
    """Those that no other beats in both, from the fastest on."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.seconds, each.value)):
        if not best or point.value < best[-1].value:
            best.append(point)
    return best


def pareto_svg(points: list[Point], x_title: str, y_title: str) -> str:
    """All points, those on the front joined; rows and the front have their names beside them."""
    seconds = [point.seconds for point in points]
    low, high = math.log10(min(seconds)) - 0.05, math.log10(max(seconds)) + 0.05
    bottom = min(point.value - point.spread for point in points)
    top = max(point.value + point.spread for point in points)
    pad = 0.05 * (top - bottom or 1.0)
    bottom, top = bottom - pad, top + pad

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(value) - low) / (high - low)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (top - value) / (top - bottom)

    best = front(points)
    path = " ".join(f"{x(point.seconds):.1f},{y(point.value):.1f}" for point in best)
    parts = [grid(low, high, bottom, top, x, y), f'<polyline class="front" points="{path}"/>']
    taken: list[Box] = [
        (x(each.seconds) - 5, y(each.value) - 5, x(each.seconds) + 5, y(each.value) + 5) for each in points
    ]
    for point in sorted(points, key=lambda each: (each not in best, not each.is_row)):  # names of the best find room
        parts.append(mark(point, x, y, point in best))
        if point.is_row or point in best:
            parts.append(label(point.name, x(point.seconds), y(point.value), taken))
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_title)}</text>'
    )
    parts.append(f'<text x="{LEFT}" y="{TOP - 4}">{escape(y_title)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(y_title)} against {escape(x_title)}</title><style>{STYLE}</style>\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def mark(point: Point, x, y, is_best: bool) -> str:
    across, down = x(point.seconds), y(point.value)
    bar = f'<line class="bar" x1="{across:.1f}" x2="{across:.1f}" y1="{y(point.value - point.spread):.1f}" '
    bar += f'y2="{y(point.value + point.spread):.1f}"/>'
    kind = ("row" if point.is_row else "setting") + (" best" if is_best else "")
    said = escape(f"{point.name}: {point.value:.2f} ± {point.spread:.2f}, {point.seconds:.3g} s")
    return f'{bar}<circle class="{kind}" cx="{across:.1f}" cy="{down:.1f}" r="4"><title>{said}</title></circle>'


def label(name: str, across: float, down: float, taken: list[Box]) -> str:
    """A name beside its point, where no other stands; "" where there is no room (the point itself tells it)."""
    width = CHARACTER * len(name)
    for anchor, dx, dy in (
        ("start", 8, 4),
        ("start", 8, -8),
        ("start", 8, 16),
        ("end", -8, 4),
        ("end", -8, -8),
        ("end", -8, 16),
    ):
        left = across + dx - (width if anchor == "end" else 0)
        box = (left, down + dy - LINE + 4, left + width, down + dy + 2)
        inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
        if inside and not any(overlap(box, other) for other in taken):
            taken.append(box)
            place = f'x="{across + dx:.1f}" y="{down + dy:.1f}" text-anchor="{anchor}"'
            return f'<text class="name" {place}>{escape(name)}</text>'
    return ""


def overlap(first: Box, second: Box) -> bool:
    across = first[0] < second[2] and second[0] < first[2]
    return across and first[1] < second[3] and second[1] < first[3]


def grid(low: float, high: float, bottom: float, top: float, x, y) -> str:
    """Lines and numbers: 1, 2, 5 and their powers of ten across, about five round values down."""
    parts = []
    powers = range(math.floor(low), math.ceil(high) + 1)
    for value in [factor * 10.0**power for power in powers for factor in (1, 2, 5)]:
        if low <= math.log10(value) <= high:
            parts.append(
                f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            )
            parts.append(f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    step = 10.0 ** math.floor(math.log10((top - bottom) / 2))
    step = step / 2 if (top - bottom) / step < 5 else step
    for index in range(math.ceil(bottom / step), math.floor(top / step) + 1):
        down = y(index * step)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{index * step:g}</text>')
    return "\n".join(parts)
