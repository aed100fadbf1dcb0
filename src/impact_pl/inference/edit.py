"""Editing: replace, extend, vary and loop a recording. What is known stays, and only the rest is drawn.

Every operation plans windows on the recording and draws them one after the other, each seeing what the earlier ones
drew. The samples outside of what is drawn, and outside of a cross-fade around it, are the recording's own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from impact_pl.audio import CANCELLED_SHARE, SILENT_DB, fit_length, resample
from impact_pl.errors import UserError
from impact_pl.inference.blend import SILENT, channel_gains, continued, crossfade, level_gains
from impact_pl.inference.options import Style
from impact_pl.inference.recording import EditedAudio, Recording
from impact_pl.inference.windows import Grid, Span, Window, place, scattered, split
from impact_pl.randomness import clip_generators
from impact_pl.sampling.decoding import Known, counts_left

if TYPE_CHECKING:
    from impact_pl.inference.generate import Progress
    from impact_pl.inference.pipeline import ImpactPipeline

MAX_WHOLE_SECONDS = 600  # length of recordings that are changed everywhere, and so kept in memory
MAX_ADDED_SECONDS = 3600  # what is drawn is kept in memory until it is saved
SIDES = ("start", "end", "both")


@dataclass(frozen=True)
class Region:
    """A stretch of time in seconds, and the caption of what to draw there."""

    start: float
    end: float
    caption: str | None


def parse_regions(regions: Sequence, caption: str | None) -> list[Region]:
    """Read (start, end) or (start, end, caption), in seconds; ``caption`` is that of regions without their own.

    Raises:
        UserError: A region is something else.
    """
    parsed = []
    for region in regions:
        parts = tuple(region) if isinstance(region, Sequence | np.ndarray) else ()
        if len(parts) not in (2, 3) or not all(isinstance(part, int | float | np.number) for part in parts[:2]):
            raise UserError(f"region {region!r}: give (start, end) or (start, end, caption), in seconds")
        parsed.append(Region(float(parts[0]), float(parts[1]), parts[2] if len(parts) == 3 else caption))
    return parsed


def edit(pipeline: "ImpactPipeline", recording: Recording, regions: Sequence[Region], style: Style) -> EditedAudio:
    """Replace regions of a recording; see :meth:`ImpactPipeline.edit`."""
    spans = [region_span(recording, region) for region in regions]
    check_overlap(recording, spans)
    ordered = sorted(zip(spans, (region.caption for region in regions), strict=True))
    grid = grid_of(pipeline, recording)
    windows = plan(grid, (recording.start, recording.stop), ordered)
    for window in windows:
        check_heard(recording, window.start, window.stop(grid))
    draw(pipeline, recording, windows, style)
    return result(recording, [span for span, _ in ordered], [caption for _, caption in ordered], style)


def extend(
    pipeline: "ImpactPipeline", recording: Recording, caption: str | None, seconds: float, side: str, style: Style
) -> EditedAudio:
    """Make a recording longer; see :meth:`ImpactPipeline.extend`."""
    if side not in SIDES:
        raise UserError(f"side = {side!r}: choose {', '.join(SIDES)}")
    if not 1 / recording.sample_rate <= seconds <= MAX_ADDED_SECONDS:
        raise UserError(
            f"{seconds:g} s to add: give at least a sample and at most {MAX_ADDED_SECONDS} s; `impact generate "
            "--timeline` makes longer sounds"
        )
    length, grid = round(seconds * recording.sample_rate), grid_of(pipeline, recording)
    start, stop = recording.start, recording.stop
    reach = round(grid.most * grid.unit)
    parts: list[Span] = []
    if side in ("end", "both"):
        check_heard(recording, max(start, stop - reach), stop)
        parts += split((stop, stop + length), grid)
    if side in ("start", "both"):
        check_heard(recording, start, min(stop, start + reach))
        parts += reversed(split((start - length, start), grid))
    bounds = min(start, *(a for a, _ in parts)), max(stop, *(b for _, b in parts))
    windows = [place(grid, bounds, part, parts[number + 1 :], caption) for number, part in enumerate(parts)]
    draw(pipeline, recording, windows, style)
    added = [span for span in ((bounds[0], start), (stop, bounds[1])) if span[0] < span[1]]
    return result(recording, added, [caption] * len(added), style)


def vary(
    pipeline: "ImpactPipeline", recording: Recording, caption: str | None, share: float, style: Style
) -> EditedAudio:
    """Draw a share of a recording again; see :meth:`ImpactPipeline.vary`."""
    if not 0 < share <= 1:
        raise UserError(f"share = {share:g}: give the fraction of the sound to draw again, above 0 and at most 1")
    check_whole(recording)
    grid = grid_of(pipeline, recording)
    num_frames = max(1, int(recording.num_samples / grid.unit))  # an incomplete last frame stays as it is
    generator = clip_generators([style.seed], [caption], "vary")[0]
    chosen = torch.zeros(num_frames, dtype=torch.bool)
    chosen[torch.randperm(num_frames, generator=generator)[: max(1, round(share * num_frames))]] = True
    windows = scattered(grid, (recording.start, recording.stop), chosen.numpy(), caption)
    draw(pipeline, recording, windows, style)
    spans = [span for window in windows for span in window.drawn]
    return result(recording, spans, [caption] * len(spans), style)


def loop(
    pipeline: "ImpactPipeline", recording: Recording, caption: str | None, seam: float, style: Style
) -> EditedAudio:
    """Let the end of a recording lead into its beginning; see :meth:`ImpactPipeline.loop`.

    The recording is rotated so that its ends meet in the middle, where the seam is drawn, and rotated back.
    """
    if not 1 / recording.sample_rate <= seam <= recording.duration / 2:
        raise UserError(
            f"seam = {seam:g} s: give at least a sample and at most half of the sound's {recording.duration:.2f} s"
        )
    check_whole(recording)
    half = recording.num_samples // 2
    turned = Recording(np.roll(recording.samples(), half, axis=0), recording.sample_rate, recording.subtype)
    length = round(seam * recording.sample_rate)
    span = half - length // 2, half - length // 2 + length
    grid = grid_of(pipeline, turned)
    draw(pipeline, turned, plan(grid, (0, turned.stop), [(span, caption)]), style)
    back = Recording(np.roll(turned.samples(), -half, axis=0), recording.sample_rate, recording.subtype)
    ends = (back.stop - length // 2, back.stop), (0, length - length // 2)
    return result(back, list(ends), [caption] * 2, style)


def beginning(recording: Recording, seconds: float) -> EditedAudio:
    """Return the first ``seconds`` of a recording."""
    if not 0 < seconds <= recording.duration + 1e-6:
        raise UserError(f"{seconds:g} s of a sound that lasts {recording.duration:.3f} s: choose at most that")
    samples = recording.read(recording.start, recording.start + round(seconds * recording.sample_rate))
    return EditedAudio(Recording(samples, recording.sample_rate, recording.subtype), (), (), 0)


def plan(grid: Grid, bounds: Span, regions: Sequence[tuple[Span, str | None]]) -> list[Window]:
    """Place a window around each region, or several in turn around a long one."""
    parts = [(part, caption) for span, caption in regions for part in split(span, grid)]
    spans = [span for span, _ in parts]
    return [place(grid, bounds, span, spans[number + 1 :], caption) for number, (span, caption) in enumerate(parts)]


def draw(pipeline: "ImpactPipeline", recording: Recording, windows: Sequence[Window], style: Style) -> None:
    """Draw what the windows name into the recording, one window after the other."""
    grid = grid_of(pipeline, recording)
    plans = [(window, known_of(pipeline, grid, window)) for window in windows]
    totals = [len(counts_left(style.decoding, known)) for _, known in plans]
    for number, (window, known) in enumerate(plans):
        advance = style.progress and _after(style.progress, sum(totals[:number]), sum(totals))
        draw_window(pipeline, recording, grid, window, known, number, style, advance)


def _after(progress: "Progress", done: int, total: int) -> "Progress":
    """Count on from ``done`` of ``total`` iterations."""
    return lambda iteration, _: progress(done + iteration, total)


def draw_window(
    pipeline: "ImpactPipeline",
    recording: Recording,
    grid: Grid,
    window: Window,
    known: Known,
    number: int,
    style: Style,
    progress: "Progress | None",
) -> None:
    """Encode one window, draw its missing patches, decode them and their surroundings, and put them back."""
    context = recording.read(window.start, window.stop(grid))  # (S, C)
    mono = resample(torch.from_numpy(context.mean(axis=1)).float(), recording.sample_rate, pipeline.sample_rate)
    mono = fit_length(mono, pipeline.samples_per_patch * window.num_frames).view(window.num_frames, -1)  # (T, samples)
    kept = ~window.covered(grid, [*window.drawn, *window.later])  # (T,)
    latents = pipeline.fill(
        pipeline.encode(torch.from_numpy(continued(mono.numpy(), kept)).flatten(), pipeline.sample_rate),
        known,
        [window.caption],
        [style.seed],
        style.decoding,
        negative_caption=style.negative_caption,
        purpose=f"latents {number}",
        progress=progress,
    )
    first, last = decoded_frames(pipeline, window.covered(grid, window.drawn))
    generator = clip_generators([style.seed], [window.caption], f"codec {number}")
    latents = latents[:, :, first * pipeline.frames_per_patch : last * pipeline.frames_per_patch]
    sound = pipeline.decode_raw(latents, generator)[0].cpu().view(last - first, -1)  # (T', samples)
    if style.match_level:
        gains = level_gains(mono[first:last].numpy(), sound.numpy(), kept[first:last])
        centres = (np.arange(len(gains)) + 0.5) * pipeline.samples_per_patch
        curve = np.interp(np.arange(sound.numel()), centres, gains)
        sound = sound * torch.from_numpy(curve).float().view_as(sound)
    back = resample(sound.flatten(), pipeline.sample_rate, recording.sample_rate).double().numpy()  # (S',)
    frames = np.minimum((np.arange(len(context)) / grid.unit).astype(int), window.num_frames - 1)
    channels = back[:, None] * channel_gains(context, kept[frames])  # (S', C)
    put_back(recording, window.start + round(first * grid.unit), channels, window.drawn, style.fade_ms)


def decoded_frames(pipeline: "ImpactPipeline", drawn: np.ndarray) -> Span:
    """Find the frames (of patches) to decode: those drawn, and as many around them as decoding depends on."""
    where = np.flatnonzero(drawn)
    around = -(-pipeline.codec.decode_context // pipeline.frames_per_patch)
    return max(0, int(where[0]) - around), min(len(drawn), int(where[-1]) + 1 + around)


def put_back(recording: Recording, position: int, sound: np.ndarray, spans: Sequence[Span], fade_ms: float) -> None:
    """Write the spans of a sound (S, C), whose first sample belongs at ``position``, into the recording."""
    fade = round(fade_ms / 1000 * recording.sample_rate)
    start, stop = recording.start, recording.stop
    for a, b in spans:
        fade_in = min(fade, max(0, a - max(start, position)))
        fade_out = min(fade, max(0, min(stop, position + len(sound)) - b))
        first, last = a - fade_in, b + fade_out
        new = fit_rows(sound[first - position : last - position], last - first)
        peak = np.abs(new).max()
        recording.write(first, crossfade(recording.read(first, last), new / max(1.0, peak), fade_in, fade_out))


def fit_rows(samples: np.ndarray, count: int) -> np.ndarray:
    """Cut or pad samples (S, C) to ``count``; resampling may be a sample short."""
    return np.pad(samples[:count], ((0, max(0, count - len(samples))), (0, 0)))


def known_of(pipeline: "ImpactPipeline", grid: Grid, window: Window) -> Known:
    """Mark the known and the drawn patches (1, N) of a window."""
    drawn, later = window.covered(grid, window.drawn), window.covered(grid, window.later)
    width = pipeline.model.patches_per_frame
    per_patch = [torch.from_numpy(np.repeat(mask, width))[None] for mask in (~(drawn | later), drawn)]
    return Known(*per_patch)


def grid_of(pipeline: "ImpactPipeline", recording: Recording) -> Grid:
    """Lay the model's grid of patches over a recording."""
    unit = pipeline.samples_per_patch * recording.sample_rate / pipeline.sample_rate
    return Grid(unit, round(pipeline.max_duration * pipeline.sample_rate) // pipeline.samples_per_patch)


def result(recording: Recording, spans: Sequence[Span], captions: Sequence[str | None], style: Style) -> EditedAudio:
    """State what was drawn."""
    seconds = tuple((a / recording.sample_rate, b / recording.sample_rate) for a, b in spans)
    return EditedAudio(recording, seconds, tuple(captions), style.seed)


def region_span(recording: Recording, region: Region) -> Span:
    """Convert a region to samples.

    Raises:
        UserError: It is empty or not inside of the recording.
    """
    where = f"region {region.start:g} to {region.end:g} s"
    if not (math.isfinite(region.start) and math.isfinite(region.end)):
        raise UserError(f"{where}: give two finite numbers of seconds")
    if region.start < 0 or region.end > recording.duration + 1e-6:
        raise UserError(
            f"{where} is outside of the sound, which lasts {recording.duration:.3f} s: choose from 0 to "
            f"{recording.duration:.3f}, or extend the sound"
        )
    span = round(region.start * recording.sample_rate), round(region.end * recording.sample_rate)
    if span[0] >= span[1]:
        raise UserError(f"{where} is empty: its end must be after its start")
    return span[0], min(span[1], recording.stop)


def check_overlap(recording: Recording, spans: Sequence[Span]) -> None:
    """Check that no two regions overlap.

    Raises:
        UserError: Two do, or there is none.
    """
    if not spans:
        raise UserError("no region to replace: give at least one, such as (1.2, 2.4)")
    ordered = sorted(spans)
    for (start, stop), (other, end) in pairwise(ordered):
        if other < stop:
            seconds = [position / recording.sample_rate for position in (start, stop, other, end)]
            raise UserError("regions {:g} to {:g} s and {:g} to {:g} s overlap: join them or move one".format(*seconds))


def check_whole(recording: Recording) -> None:
    """Check that a recording can be changed everywhere.

    Raises:
        UserError: It is too long or silent.
    """
    check_length(recording.duration, recording.name)
    check_heard(recording, recording.start, recording.stop)


def check_length(seconds: float, name: str = "the sound") -> None:
    """Check that a sound is short enough to be changed everywhere.

    Raises:
        UserError: It is too long.
    """
    if seconds > MAX_WHOLE_SECONDS:
        raise UserError(
            f"{name}: lasts {seconds:.0f} s, and at most {MAX_WHOLE_SECONDS} s can be changed "
            "everywhere at once: cut out a part, or replace regions, which any length allows"
        )


def check_heard(recording: Recording, start: int, stop: int) -> None:
    """Check that there is something to hear, alone and mixed to mono, where the model listens.

    Raises:
        UserError: There is not.
    """
    samples = recording.read(max(start, recording.start), min(stop, recording.stop))
    peak = np.abs(samples).max(initial=0.0)
    where = f"{recording.name}: from {start / recording.sample_rate:.2f} to {stop / recording.sample_rate:.2f} s"
    if peak < SILENT:
        raise UserError(
            f"{where} it is silent (below {SILENT_DB:g} dB), which leaves nothing to continue: generate a sound instead"
        )
    if np.abs(samples.mean(axis=1)).max() < CANCELLED_SHARE * peak:
        raise UserError(f"{where} its channels cancel each other when they are mixed to mono: invert one")
