"""Draw the model and its decoding.

usage: python docs/figures/architecture.py        # writes docs/assets/model.svg and docs/assets/decoding.svg

The decoding figure counts masked patches with the package's own schedule (IMPACT Sec. 3.2: cosine).
"""

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import FancyBboxPatch, Patch

from impact_pl.sampling.schedules import masked_counts

ASSETS = Path(__file__).parents[1] / "assets"
PLAIN, MODEL, FROZEN, MASKED = "#eceff4", "#b9d3ee", "#dcdcdc", "#ffffff"
plt.rcParams.update({"font.size": 10, "svg.hashsalt": "impact_pl", "svg.fonttype": "path"})


def box(axis: Axes, x: float, y: float, width: float, text: str, color: str = PLAIN, height: float = 0.9) -> None:
    """A rounded box with its lower left corner at (x, y)."""
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.08", fc=color, ec="#445")
    axis.add_patch(shape)
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center")


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#445", "shrinkA": 0, "shrinkB": 0})


def draw_model(file: Path) -> None:
    """Draw the way from waveform and caption to hidden states, and from there back to a waveform."""
    figure, axis = plt.subplots(figsize=(9, 3.5), layout="constrained")
    axis.set(xlim=(0, 15.2), ylim=(0, 5.7))
    axis.axis("off")
    box(axis, 0.1, 2.3, 1.7, "waveform\n(B, S)")
    box(axis, 2.4, 2.3, 1.9, "codec encoder\n(frozen)", FROZEN)
    box(axis, 4.9, 2.3, 2.0, "latent patches\n(B, N, P)")
    box(axis, 7.5, 2.3, 3.0, "masked transformer\n“LatentEncoder”", MODEL)
    box(axis, 11.2, 2.3, 1.6, "hidden\n(B, N, D)")
    box(axis, 13.4, 2.3, 1.7, "diffusion\nhead (MLP)", MODEL)
    box(axis, 4.9, 4.3, 2.0, "captions")
    box(axis, 7.5, 4.3, 3.0, "text encoder (frozen)", FROZEN)
    box(axis, 13.4, 0.4, 1.7, "predicted\npatches")
    box(axis, 2.4, 0.4, 1.9, "codec decoder\n(frozen)", FROZEN)
    box(axis, 0.1, 0.4, 1.7, "sound")
    for start, end in (
        ((1.85, 2.75), (2.35, 2.75)),
        ((4.35, 2.75), (4.85, 2.75)),
        ((6.95, 2.75), (7.45, 2.75)),
        ((10.55, 2.75), (11.15, 2.75)),
        ((12.85, 2.75), (13.35, 2.75)),
        ((6.95, 4.75), (7.45, 4.75)),
        ((9.0, 4.25), (9.0, 3.25)),
        ((14.25, 2.25), (14.25, 1.35)),
        ((13.35, 0.85), (4.35, 0.85)),
        ((2.35, 0.85), (1.85, 0.85)),
    ):
        arrow(axis, start, end)
    axis.text(5.9, 2.05, "some are masked", ha="center", va="top", fontsize=9)
    axis.text(9.1, 3.75, "cond (B, L, D)", fontsize=9, va="center")
    axis.text(8.9, 1.0, "after the last decoding iteration", ha="center", fontsize=9)
    axis.text(14.2, 3.35, "each masked\nposition alone", ha="center", fontsize=9)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def draw_decoding(file: Path, num_patches: int = 64, num_iterations: int = 8) -> None:
    """Show which patches are known after each iteration."""
    order = np.random.default_rng(0).permutation(num_patches)
    num_masked = [num_patches, *masked_counts(num_patches, num_iterations)]
    known = np.zeros((num_iterations, num_patches))  # 0 masked, 1 known before, 2 drawn in this iteration
    for step in range(num_iterations):
        known[step, order[: num_patches - num_masked[step]]] = 1
        known[step, order[num_patches - num_masked[step] : num_patches - num_masked[step + 1]]] = 2
    figure, axis = plt.subplots(figsize=(9, 2.8), layout="constrained")
    colors = ListedColormap([MASKED, "#7fa8d1", "#e07b39"])
    axis.pcolormesh(known, cmap=colors, edgecolors="#ccd", linewidth=0.5)
    axis.invert_yaxis()
    counts = [before - after for before, after in itertools.pairwise(num_masked)]
    axis.set_yticks(np.arange(num_iterations) + 0.5, [f"{i + 1}: +{n}" for i, n in enumerate(counts)])
    axis.set(xlabel="latent patch (time)", ylabel="iteration: patches drawn", xticks=[])
    handles = [Patch(fc=c, ec="#889") for c in (MASKED, "#e07b39", "#7fa8d1")]
    axis.legend(
        handles,
        ["masked", "drawn in this iteration", "known"],
        ncols=3,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        frameon=False,
    )
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    ASSETS.mkdir(exist_ok=True)
    draw_model(ASSETS / "model.svg")
    draw_decoding(ASSETS / "decoding.svg")


if __name__ == "__main__":
    main()
