"""Pictures of the report: spectrograms as plain PNG images, loss curves as SVG."""

import csv
import io
import math
from pathlib import Path

import matplotlib
import matplotlib.image
import torch
from matplotlib.figure import Figure
from torch import Tensor

from impact_pl.audio import fit_length
from impact_pl.errors import UserError
from impact_pl.evaluation.pages import data_uri
from impact_pl.spectrogram import LogMel

SMOOTHING = 0.1  # fraction of the curve's length that the bold line averages over
TRAIN_COLUMNS = ("train/loss", "train/loss_step", "train_loss", "loss")
VALID_COLUMNS = ("valid/loss", "val/loss", "valid_loss", "val_loss")
TRAIN_COLOUR, VALID_COLOUR, TEXT_COLOUR = "#cc5a50", "#4a90b5", "#857f78"  # legible on light and on dark pages
Curve = list[tuple[float, float]]  # (step, loss)


def spectrogram_uri(waveform: Tensor) -> str:
    """Draw the log-mel spectrogram of a waveform (S,) at 16 kHz as a ``data:`` PNG, one pixel per frame and band.

    All pictures share one scale, that of ``spectrogram.spectrogram_png``, so that loudness can be compared.
    """
    log_mel = LogMel(num_mels=96)
    with torch.no_grad():
        mel = log_mel(fit_length(waveform, max(log_mel.n_fft, len(waveform)))[None])[0]  # (F, M)
    decibels = mel * (20 / math.log(10))
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, decibels.flip(0).numpy(), cmap="magma", vmin=-80, vmax=20, format="png")
    return data_uri(buffer.getvalue(), "image/png")


def read_curves(path: str | Path) -> tuple[Curve, Curve]:
    """Read training and validation loss from a metrics.csv. Empty and unreadable cells are skipped.

    Raises:
        UserError: The file is missing, or has no loss column.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such metrics.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = set(rows[0]) if rows else set()
    train = next((name for name in TRAIN_COLUMNS if name in columns), None)
    valid = next((name for name in VALID_COLUMNS if name in columns), None)
    if train is None and valid is None:
        raise UserError(f"{path}: no loss in it; columns are {sorted(columns)}, expected one of {TRAIN_COLUMNS}")
    return _curve(rows, train), _curve(rows, valid)


def _curve(rows: list[dict], column: str | None) -> Curve:
    points = []
    for row in rows if column else []:
        try:
            step, loss = float(row.get("step") or ""), float(row.get(column) or "")
        except ValueError:
            continue
        if math.isfinite(step) and math.isfinite(loss):
            points.append((step, loss))
    return sorted(points)


def loss_chart_uri(train: Curve, valid: Curve) -> str:
    """Draw the training loss (faint), its running mean (bold) and the validation loss (dots) as a ``data:`` SVG."""
    with matplotlib.rc_context({"svg.hashsalt": "impact", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(5.6, 2.5), layout="constrained")
        axes = figure.subplots()
        if train:
            axes.plot(*zip(*train, strict=True), color=TRAIN_COLOUR, alpha=0.3, linewidth=1)
            axes.plot(*zip(*running_mean(train), strict=True), color=TRAIN_COLOUR, linewidth=2)
        if valid:
            axes.plot(*zip(*valid, strict=True), "o-", color=VALID_COLOUR, linewidth=1.2, markersize=3)
        losses = sorted(loss for _, loss in train + valid)
        low, high = losses[0], losses[math.ceil(0.99 * (len(losses) - 1))]  # a rare spike does not flatten the rest
        if high > low:
            axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes.set_xlabel("steps", color=TEXT_COLOUR)
        axes.tick_params(colors=TEXT_COLOUR, length=0)
        axes.grid(axis="y", color=TEXT_COLOUR, alpha=0.25)
        axes.spines[:].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return data_uri(buffer.getvalue(), "image/svg+xml")


def running_mean(points: Curve) -> Curve:
    """Average over a centred window, which narrows towards both ends so that they are not biased."""
    half = int(len(points) * SMOOTHING / 2)
    smooth = []
    for index, (step, _) in enumerate(points):
        reach = min(half, index, len(points) - 1 - index)
        window = points[index - reach : index + reach + 1]
        smooth.append((step, sum(loss for _, loss in window) / len(window)))
    return smooth


def loss_summary(train: Curve, valid: Curve) -> str:
    """Summarise the first and last losses in words. The last training loss is the mean of the last twentieth."""
    parts = []
    if train:
        tail = [loss for _, loss in train[-max(1, len(train) // 20) :]]
        parts.append(f"training {train[0][1]:.3f} → {sum(tail) / len(tail):.3f}")
    if valid:
        parts.append(f"validation {valid[0][1]:.3f}" + (f" → {valid[-1][1]:.3f}" if len(valid) > 1 else ""))
    return ", ".join(parts)
