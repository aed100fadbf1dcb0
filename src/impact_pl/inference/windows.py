"""Windows on a recording: which stretch of it the model sees while it draws a part, as patches on its own grid.

Positions are samples at the recording's own rate. A frame is one position in time on the model's grid of patches.
Without PyTorch, for :mod:`impact_pl.portable`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

SLACK = 0.01  # of a frame: overlaps below this are rounding

Span = tuple[int, int]  # first sample, and the one after the last


@dataclass(frozen=True)
class Grid:
    """The model's grid of patches on a recording.

    Attributes:
        unit: Samples per frame, not necessarily a whole number.
        most: Frames that the model sees at once.
    """

    unit: float
    most: int

    def frames(self, num_samples: int) -> int:
        """Count the frames that cover ``num_samples``."""
        return max(1, math.ceil(num_samples / self.unit - SLACK))


@dataclass(frozen=True)
class Window:
    """A stretch of a recording, and the parts of it that are drawn.

    Attributes:
        start: Position of its first sample.
        num_frames: Its length.
        drawn: Spans to draw, in order.
        later: Spans whose content is not to be seen, because it is drawn in another window afterwards.
        caption: What to draw.
    """

    start: int
    num_frames: int
    drawn: tuple[Span, ...]
    later: tuple[Span, ...] = ()
    caption: str | None = None

    def covered(self, grid: Grid, spans: Iterable[Span]) -> np.ndarray:
        """Mark the frames (num_frames,) that any of the spans reaches into."""
        mask = np.zeros(self.num_frames, bool)
        for start, stop in spans:
            first = math.floor((start - self.start) / grid.unit + SLACK)
            last = math.ceil((stop - self.start) / grid.unit - SLACK)
            mask[max(first, 0) : max(first + 1, last, 0)] = True  # a span within the slack still has a frame
        return mask

    def stop(self, grid: Grid) -> int:
        """Return the position after its last sample."""
        return self.start + round(self.num_frames * grid.unit)


def split(span: Span, grid: Grid) -> list[Span]:
    """Split a span into equal parts of at most half a window, so that at least as much around them is known."""
    start, stop = span
    parts = max(1, math.ceil((stop - start) / (grid.unit * max(1, grid.most // 2)) - SLACK))
    edges = [start + round((stop - start) * part / parts) for part in range(parts + 1)]
    return list(pairwise(edges))


def place(grid: Grid, bounds: Span, span: Span, undrawn: Sequence[Span], caption: str | None) -> Window:
    """Place a window around a span, with as much of the known sound on both sides of it as the model can see.

    Args:
        grid: The model's grid.
        bounds: First sample of the recording, and the one after its last.
        span: What to draw.
        undrawn: Other spans that will be drawn later.
        caption: What to draw.
    """
    first, last = _known_bounds(bounds, sorted(undrawn))
    inside = grid.frames(span[1] - span[0])
    before = max(0, math.floor((span[0] - first) / grid.unit + SLACK))
    after = max(0, math.floor((last - span[0]) / grid.unit + SLACK) - inside)
    spare = max(0, grid.most - inside)
    left = min(before, max(spare // 2, spare - after))
    right = min(after, spare - left)
    start = span[0] - round(left * grid.unit)
    return Window(start, left + inside + right, (span,), tuple(undrawn), caption)


def _known_bounds(bounds: Span, undrawn: Sequence[Span]) -> Span:
    """Leave out what is not known at the beginning and at the end."""
    first, last = bounds
    for start, stop in undrawn:
        first = stop if start <= first < stop else first
    for start, stop in reversed(undrawn):
        last = start if start < last <= stop else last
    return first, last


def scattered(grid: Grid, bounds: Span, chosen: np.ndarray, caption: str | None) -> list[Window]:
    """Tile a recording with windows that draw the ``chosen`` frames (bool, counted from its beginning)."""
    windows, total = [], len(chosen)
    for first in range(0, total, grid.most):
        stop = min(first + grid.most, total)
        start = max(0, stop - grid.most)  # the last window reaches back, for more context
        position = bounds[0] + round(start * grid.unit)
        spans: list[Span] = []
        for frame in np.flatnonzero(chosen[first:stop]).tolist():
            edges = [round((first + frame - start + step) * grid.unit) + position for step in (0, 1)]
            if spans and spans[-1][1] == edges[0]:  # neighbours are one span
                edges[0] = spans.pop()[0]
            spans.append((edges[0], min(edges[1], bounds[1])))
        if spans:
            windows.append(Window(position, stop - start, tuple(spans), caption=caption))
    return windows
