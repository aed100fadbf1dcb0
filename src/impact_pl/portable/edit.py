"""Replace a region of a mono sound at the model's rate, without PyTorch: what :mod:`impact_pl.inference.edit` does.

Dimension key: S samples.
"""

import math
from functools import partial

import numpy as np

from impact_pl.config import DecodingConfig
from impact_pl.errors import UserError
from impact_pl.inference.blend import SILENT, continued, crossfade, level_gains
from impact_pl.inference.windows import Grid, Span, Window, place, split
from impact_pl.portable.noise import Noise
from impact_pl.portable.runner import Progress, Runner
from impact_pl.sampling.schedules import masked_counts

FADE = 0.02  # seconds of the cross-fades, outside of the region


def replace_region(
    runner: Runner,
    sound: np.ndarray,
    start: float,
    end: float,
    caption: str,
    seed: int = 0,
    decoding: DecodingConfig | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Replace what is heard from ``start`` to ``end`` (seconds) by what a caption says, in the context of the rest.

    A region of more than half of the model's window is drawn in parts, each in the context of the earlier ones.

    Args:
        runner: The model.
        sound: (S,) in [-1, 1] at the model's sample rate.
        start: Where the region begins.
        end: Where it ends.
        caption: What to draw.
        seed: The same caption and seed give the same sound.
        decoding: Result of :meth:`Runner.decoding`.
        progress: Called with (iteration, number of iterations) of all parts together.

    Returns:
        (S,) float64; outside of the region and its cross-fades, the samples of ``sound``.

    Raises:
        UserError: The region is not inside of the sound, or there is nothing to hear around it.
    """
    decoding, rate = decoding or runner.decoding(), runner.config.sample_rate
    span = region_span(start, end, len(sound), rate)
    sound, grid = sound.astype(np.float64), Grid(runner.config.samples_per_patch, runner.config.max_patches)
    parts = split(span, grid)
    windows = [place(grid, (0, len(sound)), part, parts[i + 1 :], caption) for i, part in enumerate(parts)]
    totals = [num_iterations(window, grid, decoding) for window in windows]
    for number, window in enumerate(windows):
        report = progress and partial(shifted, progress, sum(totals[:number]), sum(totals))
        draw_window(runner, sound, grid, window, number, caption, seed, decoding, report)
    return sound


def shifted(progress: Progress, before: int, total: int, iteration: int, _: int) -> None:
    """Report an iteration of a part as one of all parts."""
    progress(before + iteration, total)


def region_span(start: float, end: float, num_samples: int, rate: int) -> Span:
    """Convert a region to samples.

    Raises:
        UserError: It is empty or not inside of the sound.
    """
    duration = num_samples / rate
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end <= duration + 1e-6):
        raise UserError(f"region {start:g} to {end:g} s: choose a start before an end, from 0 to {duration:.3f} s")
    first, last = round(start * rate), min(round(end * rate), num_samples)
    if first >= last:
        raise UserError(f"region {start:g} to {end:g} s is shorter than a sample")
    return first, last


def num_iterations(window: Window, grid: Grid, decoding: DecodingConfig) -> int:
    """Count the iterations that a window takes."""
    drawn = int(window.covered(grid, window.drawn).sum())
    return len(masked_counts(window.num_frames, decoding.num_iterations, decoding.reveal, drawn))


def draw_window(
    runner: Runner,
    sound: np.ndarray,
    grid: Grid,
    window: Window,
    number: int,
    caption: str,
    seed: int,
    decoding: DecodingConfig,
    progress: Progress | None,
) -> None:
    """Encode a window, draw the missing patches, decode them and their surroundings, and put them into the sound."""
    unit, start = runner.config.samples_per_patch, window.start
    drawn = window.covered(grid, window.drawn)
    known = ~(drawn | window.covered(grid, window.later))
    heard = np.zeros(window.num_frames * unit, np.float32)
    heard[: len(sound) - start] = sound[start : window.stop(grid)]
    if np.abs(heard).max() < SILENT:
        raise UserError("around the region it is silent, which leaves nothing to continue: generate a sound instead")
    frames = heard.reshape(-1, unit)
    patches = runner.fill(
        runner.encode(continued(frames, known).ravel()),
        known,
        drawn,
        runner.conditions(caption),
        decoding,
        Noise(seed, caption, f"latents {number}"),
        progress,
    )
    where, around = np.flatnonzero(drawn), runner.config.decode_context
    first, last = max(0, where[0] - around), min(len(drawn), where[-1] + 1 + around)
    new = runner.decode(patches[first:last], Noise(seed, caption, f"codec {number}")).reshape(-1, unit)
    gains = level_gains(frames[first:last], new, known[first:last])
    curve = np.interp(np.arange(new.size), (np.arange(len(gains)) + 0.5) * unit, gains)
    fade = round(FADE * runner.config.sample_rate)
    put_back(sound, start + first * unit, new.ravel() * curve.astype(np.float32), window.drawn[0], fade)


def put_back(sound: np.ndarray, position: int, new: np.ndarray, span: Span, fade: int) -> None:
    """Write the span of ``new``, which begins at ``position``, into the sound with cross-fades."""
    fade_in = min(fade, max(0, span[0] - max(0, position)))
    fade_out = min(fade, max(0, min(len(sound), position + len(new)) - span[1]))
    first, last = span[0] - fade_in, span[1] + fade_out
    new = new[first - position : last - position].astype(np.float64)
    new = new / max(1.0, np.abs(new).max())
    sound[first:last] = crossfade(sound[first:last, None], new[:, None], fade_in, fade_out)[:, 0]
