"""Pictures of the report: spectrograms as bare PNG pixels, curves as SVG that follows the page's colours."""

import base64
import csv
import io
import math
from html import escape
from pathlib import Path

import matplotlib.image
import torch
from torch import Tensor

from impact_pl.audio import LogMel, fit_length
from impact_pl.errors import UserError

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 34  # margins of a chart
MAX_POINTS = 500
SMOOTHING = 0.1  # share of the curve's length over which the bold line averages
TRAIN_COLUMNS = ("train/loss", "train/loss_step", "train_loss", "loss")
VALID_COLUMNS = ("valid/loss", "val/loss", "valid_loss", "val_loss")
Curve = list[tuple[float, float]]  # (step, loss)


def spectrogram_uri(waveform: Tensor) -> str:
    """Log-mel spectrogram of a waveform (S,) at 16 kHz as a ``data:`` PNG without axes: one pixel a frame and band.

    Every picture has one scale, that of ``audio.spectrogram_png``, so that loudness can be compared between them.
    """
    log_mel = LogMel(num_mels=96)
    with torch.no_grad():
        mel = log_mel(fit_length(waveform, max(log_mel.n_fft, len(waveform)))[None])[0]  # (F, M)
    decibels = mel * (20 / math.log(10))
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, decibels.flip(0).numpy(), cmap="magma", vmin=-80, vmax=20, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def read_curves(path: str | Path) -> tuple[Curve, Curve]:
    """Training and validation loss of a metrics.csv: empty and unreadable cells are left out.

    Raises:
        ValueError: no such file, or no column of a loss.
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


def loss_chart(name: str, train: Curve, valid: Curve) -> str:
    """One chart: the training loss (faint), its running mean (bold), the validation loss (dots)."""
    points = train + valid
    if not points:
        return f'<p class="muted">{escape(name)}: no loss was logged.</p>'
    last = max(step for step, _ in points) or 1.0
    losses = sorted(loss for _, loss in points)
    low, high = losses[0], losses[min(len(losses) - 1, int(0.99 * len(losses)))]
    ticks = _ticks(low, high)
    low, high = min(ticks[0], low), max(ticks[-1], high)

    def place(point: tuple[float, float]) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * point[0] / last
        y = TOP + (HEIGHT - TOP - BOTTOM) * (high - min(point[1], high)) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = [_axes(ticks, last, place)]
    if train:
        thinned = train[:: max(1, len(train) // MAX_POINTS)]
        parts.append(f'<polyline class="raw" points="{" ".join(map(place, thinned))}"/>')
        parts.append(f'<polyline class="mean" points="{" ".join(map(place, running_mean(thinned)))}"/>')
    if len(valid) > 1:
        parts.append(f'<polyline class="valid" points="{" ".join(map(place, valid))}"/>')
    for point in valid[:: max(1, len(valid) // 60)]:
        x, y = place(point).split(",")
        title = f"<title>step {point[0]:.0f}: {point[1]:.4f}</title>"
        parts.append(f'<circle class="valid" cx="{x}" cy="{y}" r="3">{title}</circle>')
    name, summary = escape(name), _summary(train, valid)
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}: {summary}">{"".join(parts)}</svg>'
    return (
        f'<figure class="chart"><figcaption><strong>{name}</strong> <span>{summary}</span></figcaption>{svg}</figure>'
    )


def running_mean(points: Curve) -> Curve:
    """Centred mean over a window of points, narrower at both ends so that they are not drawn towards the middle."""
    half = int(len(points) * SMOOTHING / 2)
    smooth = []
    for index, (step, _) in enumerate(points):
        reach = min(half, index, len(points) - 1 - index)
        window = points[index - reach : index + reach + 1]
        smooth.append((step, sum(loss for _, loss in window) / len(window)))
    return smooth


def _summary(train: Curve, valid: Curve) -> str:
    said = []
    if train:
        tail = [loss for _, loss in train[-max(1, len(train) // 20) :]]
        said.append(f"training {train[0][1]:.3f} → {sum(tail) / len(tail):.3f}")
    if valid:
        said.append(
            f"validation {valid[0][1]:.3f} → {valid[-1][1]:.3f}" if len(valid) > 1 else f"validation {valid[0][1]:.3f}"
        )
    return ", ".join(said)


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values that cover [low, high], about ``count`` of them."""
    span = max(high - low, 1e-3 * max(abs(high), 1e-3))
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first = math.floor(low / step)
    return [index * step for index in range(first, max(first + 1, math.ceil(high / step - 1e-9)) + 1)]


def _axes(ticks: list[float], last: float, place) -> str:
    parts = []
    for tick in ticks:
        y = place((0, tick)).split(",")[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    steps = [tick for tick in _ticks(0, last, 5) if tick <= last]
    for step in steps:
        x = place((step, ticks[0])).split(",")[0]
        anchor = "end" if step > 0.98 * last else "middle"
        label = f"{step:,.0f}" + (" steps" if step == steps[-1] else "")
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 20}" text-anchor="{anchor}">{label}</text>')
    return "".join(parts)
