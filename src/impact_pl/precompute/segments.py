"""Cut records into segments of fixed length, and collect the reasons for unusable ones.

Dimension key: S waveform samples.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from impact_pl.audio import AudioFile, NoAudioError, audio_seconds, fit_length
from impact_pl.data.manifest import Record
from impact_pl.errors import UserError

SILENT_PEAK = 1e-3  # -60 dB
SHORTEST_SECONDS = 0.1
TOLERANCE_SECONDS = 0.01  # rounding error of a duration after resampling
SHORTEST_REST_SECONDS = 1.0  # of the remainder after the last full segment
LONG_SECONDS = 600.0  # longer recordings are read a segment at a time, which bounds the memory


@dataclass
class Segment:
    """Part of a record that becomes one sample."""

    key: str
    record: Record
    start: float  # in the file, in seconds
    waveform: Tensor  # (S,), the same length for all


@dataclass
class Reject:
    """Line of rejected.jsonl."""

    id: str
    path: str
    start: float
    reason: str


def record_seconds(record: Record, file_seconds: float | None = None) -> float:
    """Compute the seconds from a record's start to its end or the file's; negative if it starts after the file's end.

    Args:
        record: The record. Its ``duration`` may exceed the file.
        file_seconds: Duration of the file; None reads its header.

    Raises:
        UserError: The header cannot be read.
    """
    if file_seconds is None:
        file_seconds = audio_seconds(record.path)
    rest = file_seconds - record.start
    return rest if record.duration is None else min(rest, record.duration)


def plan_segments(record: Record, file_seconds: float, clip_seconds: float) -> list[tuple[float, float]]:
    """Plan the segments of a record: (start, duration) in seconds of its file.

    Full segments are consecutive. The remainder is kept if it lasts a second, or if it is everything there is.

    Raises:
        UserError: The record is shorter than a tenth of a second.
    """
    total = record_seconds(record, file_seconds)
    if total < SHORTEST_SECONDS:
        raise UserError(f"too short: {max(total, 0):.3f} s, below {SHORTEST_SECONDS:g} s")
    count = math.floor(total / clip_seconds + 1e-9)
    rest = total - count * clip_seconds
    spans = [(record.start + i * clip_seconds, clip_seconds) for i in range(count)]
    if rest >= SHORTEST_REST_SECONDS or not count:
        spans.append((record.start + count * clip_seconds, rest))
    return spans


def usable_segments(
    index: int, record: Record, clip_seconds: float, sample_rate: int, rejects: list[Reject], padding: str = "silence"
) -> Iterator[Segment]:
    """Yield the segments of the manifest's record number ``index``, appending reasons for omissions to ``rejects``.

    Short segments are padded, see :func:`fit_length`. A model trained on short effects followed by silence mostly
    learns to generate silence.
    """
    try:
        with AudioFile(record.path) as file:
            yield from _segments(file, index, record, clip_seconds, sample_rate, rejects, padding)
    except UserError as error:
        rejects.append(Reject(record.id, record.path, record.start, str(error)))


def _segments(
    file: AudioFile,
    index: int,
    record: Record,
    clip_seconds: float,
    sample_rate: int,
    rejects: list[Reject],
    padding: str,
) -> Iterator[Segment]:
    """Yield what :func:`usable_segments` does. UserError: nothing of the record can be used."""
    spans = plan_segments(record, file.seconds, clip_seconds)
    whole = None
    if spans[-1][0] - record.start <= LONG_SECONDS:
        whole = file.load(sample_rate, record.start, record_seconds(record, file.seconds))
        there = record.start + len(whole) / sample_rate  # end of the readable part; a header may claim more
        if there < record.start + sum(duration for _, duration in spans) - TOLERANCE_SECONDS:
            spans = plan_segments(record, there, clip_seconds)
    slug = re.sub(r"[^A-Za-z0-9]+", "-", record.id).strip("-")[:40]
    for number, (start, duration) in enumerate(spans):
        try:
            if whole is None:
                waveform = file.load(sample_rate, start, duration)
            else:
                first = round((start - record.start) * sample_rate)
                waveform = whole[first : first + round(duration * sample_rate)]
            if waveform.abs().max() < SILENT_PEAK:
                raise UserError(f"silent: its peak is below {SILENT_PEAK:g}")
        except NoAudioError as error:  # the file ends before its header says; later spans are missing too
            rejects.append(Reject(record.id, record.path, start, str(error)))
            return
        except UserError as error:
            rejects.append(Reject(record.id, record.path, start, str(error)))
            continue
        waveform = fit_length(waveform, round(clip_seconds * sample_rate), padding)
        yield Segment(f"{index:06d}-{number:03d}-{slug}", record, start, waveform)


def batches(segments: Iterable[Segment], size: int) -> Iterator[list[Segment]]:
    """Group consecutive segments into batches of ``size``; the last batch may be smaller."""
    batch: list[Segment] = []
    for segment in segments:
        batch.append(segment)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
