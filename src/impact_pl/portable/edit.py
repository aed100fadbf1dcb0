"""Replace a region of a mono sound at the model's rate, without PyTorch: what :mod:`impact_pl.inference.edit` does.

Dimension key: S samples, T frames (patches) of a window.
"""

import math
from itertools import pairwise

import numpy as np

from impact_pl.config import DecodingConfig
from impact_pl.errors import UserError
from impact_pl.portable.noise import Noise
from impact_pl.portable.runner import Progress, Runner
from impact_pl.sampling.schedules import masked_counts

SLACK = 0.01  # of a frame: overlaps below this are rounding
FADE = 0.02  # seconds of the cross-fades, outside of the region
SILENT = 1e-3  # -60 dB
MAX_GAIN_DB = 12.0  # of the level match
SMOOTHED_FRAMES = 5  # over which the levels are compared

Span = tuple[int, int]  # first sample, and the one after the last


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
    sound = sound.astype(np.float64)
    parts = split(span, runner.config.samples_per_patch, runner.config.max_patches)
    windows = [window_of(part, span, len(sound), runner) for part in parts]
    totals = [num_iterations(window, part, span, runner, decoding) for window, part in zip(windows, parts, strict=True)]
    for number, (window, part) in enumerate(zip(windows, parts, strict=True)):
        before = sum(totals[:number])
        report = None if progress is None else lambda i, _, before=before: progress(before + i, sum(totals))  # type: ignore[misc]
        draw_part(runner, sound, window, part, span, number, caption, seed, decoding, report)
    return sound


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


def split(span: Span, unit: int, most: int) -> list[Span]:
    """Split a span into equal parts of at most half a window, so that at least as much around them is known."""
    start, stop = span
    parts = max(1, math.ceil((stop - start) / (unit * max(1, most // 2)) - SLACK))
    return list(pairwise(start + round((stop - start) * part / parts) for part in range(parts + 1)))


def window_of(part: Span, span: Span, num_samples: int, runner: Runner) -> Span:
    """Place a window around a part of the region, with as much of the known sound on both sides as the model sees."""
    unit, most = runner.config.samples_per_patch, runner.config.max_patches
    known_end = num_samples if span[1] < num_samples or part[1] == span[1] else part[1]
    inside = max(1, math.ceil((part[1] - part[0]) / unit - SLACK))
    before = math.floor(part[0] / unit + SLACK)
    after = max(0, math.floor((known_end - part[0]) / unit + SLACK) - inside)
    spare = max(0, most - inside)
    left = min(before, max(spare // 2, spare - after))
    right = min(after, spare - left)
    first = part[0] - left * unit
    return first, first + (left + inside + right) * unit


def covered(window: Span, span: Span, unit: int) -> np.ndarray:
    """Mark the frames (T,) of a window that a span reaches into."""
    mask = np.zeros((window[1] - window[0]) // unit, bool)
    if span[0] < span[1]:
        first = math.floor((span[0] - window[0]) / unit + SLACK)
        last = math.ceil((span[1] - window[0]) / unit - SLACK)
        mask[max(first, 0) : max(first + 1, last, 0)] = True
    return mask


def num_iterations(window: Span, part: Span, span: Span, runner: Runner, decoding: DecodingConfig) -> int:
    """Count the iterations that a part takes."""
    drawn = covered(window, part, runner.config.samples_per_patch)
    return len(masked_counts(len(drawn), decoding.num_iterations, decoding.reveal, int(drawn.sum())))


def draw_part(
    runner: Runner,
    sound: np.ndarray,
    window: Span,
    part: Span,
    span: Span,
    number: int,
    caption: str,
    seed: int,
    decoding: DecodingConfig,
    progress: Progress | None,
) -> None:
    """Encode a window, draw the missing patches, decode them and their surroundings, and put them into the sound."""
    unit = runner.config.samples_per_patch
    drawn = covered(window, part, unit)
    known = ~(drawn | covered(window, (part[1], span[1]), unit))  # what follows in the region is drawn later
    heard = np.zeros(window[1] - window[0], np.float32)
    heard[: len(sound) - window[0]] = sound[window[0] : window[1]]
    if np.abs(heard).max() < SILENT:
        raise UserError("around the region it is silent, which leaves nothing to continue: generate a sound instead")
    frames = heard.reshape(len(known), unit)
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
    put_back(
        sound,
        window[0] + first * unit,
        new.ravel() * curve.astype(np.float32),
        part,
        round(FADE * runner.config.sample_rate),
    )


def continued(frames: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mirror the known frames (T, samples) into the others next to them, which the codec's analysis reaches into."""
    out = np.where(known[:, None], frames, np.float32(0))
    for frame in np.flatnonzero(~known):
        if frame > 0 and known[frame - 1]:
            out[frame] = frames[frame - 1][::-1]
        elif frame + 1 < len(known) and known[frame + 1]:
            out[frame] = frames[frame + 1][::-1]
    return out


def level_gains(original: np.ndarray, decoded: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Compute gains (T,) that bring frames (T, samples) to the original's level where it is known; see ``blend``."""
    kernel = np.ones(SMOOTHED_FRAMES)
    powers = [np.mean(np.square(x.astype(np.float64)), axis=1) * known for x in (original, decoded)]
    wanted, found, heard = (
        np.convolve(x, kernel)[SMOOTHED_FRAMES // 2 :][: len(known)] for x in (*powers, 1.0 * known)
    )
    wanted, found = wanted / np.maximum(heard, 1), found / np.maximum(heard, 1)
    usable = known & (wanted > SILENT**2) & (found > SILENT**2)
    if not usable.any():
        return np.ones(len(known))
    decibels = np.clip(10 * np.log10(wanted[usable] / found[usable]), -MAX_GAIN_DB, MAX_GAIN_DB)
    return 10 ** (np.interp(np.arange(len(known)), np.flatnonzero(usable), decibels) / 20)


def put_back(sound: np.ndarray, position: int, new: np.ndarray, span: Span, fade: int) -> None:
    """Write the span of ``new``, which begins at ``position``, into the sound with cross-fades of equal power."""
    fade_in = min(fade, max(0, span[0] - max(0, position)))
    fade_out = min(fade, max(0, min(len(sound), position + len(new)) - span[1]))
    first, last = span[0] - fade_in, span[1] + fade_out
    new = new[first - position : last - position].astype(np.float64)
    weight = np.ones(len(new))
    weight[:fade_in] = np.arange(1, fade_in + 1) / (fade_in + 1)
    if fade_out:
        weight[-fade_out:] = np.minimum(weight[-fade_out:], np.arange(fade_out, 0, -1) / (fade_out + 1))
    angle = weight * (math.pi / 2)
    sound[first:last] = sound[first:last] * np.cos(angle) + new / max(1.0, np.abs(new).max()) * np.sin(angle)
