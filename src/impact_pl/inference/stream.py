"""Streams: a sound of any length whose caption may change on the way, in constant memory.

A window of the model's own length slides along. Its known part conditions the rest, and the codec decodes the
latents in overlapping chunks. The cost is linear in the duration.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from impact_pl.errors import UserError
from impact_pl.inference.options import Style
from impact_pl.inference.sounds import GeneratedAudio
from impact_pl.randomness import PositionalNoise
from impact_pl.sampling.decoding import Known

if TYPE_CHECKING:
    from impact_pl.inference.pipeline import ImpactPipeline

RAMP_SECONDS = 0.05  # over which the level falls when a stream exceeds full scale

Timeline = Sequence[tuple[float, str]]  # seconds at which a caption begins, and the caption


def stream(
    pipeline: "ImpactPipeline", timeline: Timeline, duration: float | None, style: Style
) -> Iterator[GeneratedAudio]:
    """Yield a sound in chunks; see :meth:`ImpactPipeline.stream`."""
    check_timeline(timeline, duration)
    num_samples = None if duration is None else round(duration * pipeline.sample_rate)
    noise = PositionalNoise([style.seed], [timeline[0][1]], "stream codec")
    latents = draw_latents(pipeline, timeline, num_samples, style)
    limiter, done = Limiter(round(RAMP_SECONDS * pipeline.sample_rate)), 0
    for waveforms in pipeline.codec.decode_stream(latents, noise):
        chunk = waveforms if num_samples is None else waveforms[:, : num_samples - done]
        if chunk.shape[1]:
            caption = caption_at(timeline, done / pipeline.sample_rate)
            yield GeneratedAudio(limiter(chunk.cpu()), pipeline.sample_rate, (caption,), (style.seed,))
        done += chunk.shape[1]


def draw_latents(
    pipeline: "ImpactPipeline", timeline: Timeline, num_samples: int | None, style: Style
) -> Iterator[Tensor]:
    """Yield raw latents (1, C, h, W) of as many frames as each window draws.

    The first window draws all of its frames, later ones half of them; a change of caption ends what a window draws.
    """
    second = pipeline.sample_rate / pipeline.samples_per_patch  # in frames of patches
    changes = [round(start * second) for start, _ in timeline[1:]]
    total = math.inf if num_samples is None else math.ceil(num_samples / pipeline.samples_per_patch)
    most, done, number = pipeline.max_frames, 0, 0
    spec = pipeline.model.spec
    known = torch.zeros(1, spec.latent_channels, 0, spec.latent_width, device=pipeline.device)  # whitened
    while done < total:
        change = min((frame for frame in changes if frame > done), default=math.inf)
        new = int(min(max(1, most // 2) if done else most, change - done, total - done))
        caption = timeline[sum(frame <= done for frame in changes)][1]
        window = torch.cat(
            [known, known.new_zeros(1, known.shape[1], new * pipeline.frames_per_patch, known.shape[3])], 2
        )
        window = window[:, :, -most * pipeline.frames_per_patch :]
        drawn = torch.zeros(window.shape[2] // pipeline.frames_per_patch, dtype=torch.bool)
        drawn[-new:] = True
        drawn = drawn.repeat_interleave(pipeline.model.patches_per_frame)[None]
        known = pipeline.fill(
            window,
            Known(~drawn, drawn),
            [caption],
            [style.seed],
            style.decoding,
            negative_caption=style.negative_caption,
            purpose=f"stream {number}",
        )
        done, number = done + new, number + 1
        if style.progress is not None:
            style.progress(done, 0 if total == math.inf else int(total))
        yield pipeline.model.unwhiten(known[:, :, -new * pipeline.frames_per_patch :])


class Limiter:
    """Turn a stream down for good where it exceeds full scale, over a short ramp."""

    def __init__(self, ramp: int) -> None:
        self.ramp, self.gain = ramp, 1.0

    def __call__(self, waveforms: Tensor) -> Tensor:
        """Limit the next chunk (1, S) to [-1, 1]."""
        gain = min(self.gain, 1 / max(1.0, float(waveforms.abs().max())))
        curve = torch.full((waveforms.shape[1],), gain)
        ramp = min(self.ramp, len(curve))
        curve[:ramp] = torch.linspace(self.gain, gain, ramp)
        self.gain = gain
        return (waveforms * curve).clamp(-1, 1)


def caption_at(timeline: Timeline, seconds: float) -> str:
    """Look up the caption that is drawn at a time."""
    return [caption for start, caption in timeline if start <= seconds][-1]


def check_timeline(timeline: Timeline, duration: float | None) -> None:
    """Check captions, times and duration.

    Raises:
        UserError: There is no caption at 0, times do not ascend, or the duration is not above the last of them.
    """
    odd = [entry for entry in timeline if not (isinstance(entry, tuple | list) and len(entry) == 2)]
    if odd:
        raise UserError(f"a timeline with {odd[0]!r}: give (seconds, caption)")
    starts = [start for start, _ in timeline]
    if not starts or starts[0] != 0:
        raise UserError(f"a timeline that starts at {starts[0] if starts else 'no time'}: give a caption at 0 seconds")
    for before, after in pairwise(starts):
        if not before < after < math.inf:
            raise UserError(f"a timeline with {after:g} s after {before:g} s: give times in ascending order")
    if duration is not None and not (math.isfinite(duration) and duration > starts[-1]):
        raise UserError(f"duration {duration:g} s: give seconds above {starts[-1]:g}, when the last caption begins")
