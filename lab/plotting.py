"""Common style of all plots, saved as small reproducible SVG files with text as text."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "impact", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}


@contextmanager
def saved(path: Path, inches: tuple[float, float]) -> Iterator[Axes]:
    """Yield axes to draw on; the figure is then saved to ``path``."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=inches, layout="constrained")
        try:
            yield axes
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata={"Date": None})
        finally:
            plt.close(figure)
