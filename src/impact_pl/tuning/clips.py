"""Turn a folder of recordings into clean clips with captions, and list what was left out and why.

Dimension key: T level frames, N clips.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from impact_pl.audio import SAMPLE_RATE, fit_length, load_audio, measure_level, read_samples
from impact_pl.data.manifest import Record
from impact_pl.datasets.base import audio_files
from impact_pl.datasets.folder import collect, read_captions
from impact_pl.errors import UserError
from impact_pl.files import STRICT
from impact_pl.precompute.segments import SHORTEST_SECONDS, Reject, record_seconds
from impact_pl.progress import progress
from impact_pl.spectrogram import LogMel

VALID_SHARE = 0.15  # of the sources, held out
FEWEST_CLIPS = 5  # below this there is nothing to learn from, nor to hold out
LONGEST_HOURS = 2.0  # per file
FRAME_SECONDS = 0.02
BLOCK_FRAMES = 3000  # a minute is read at a time
QUIET_DB = 45.0  # below the loudest frame of a recording
SILENT_DB = -60.0  # of full scale
PAUSE_SECONDS = 0.3  # a shorter one belongs to a sound
LONGEST_PAUSE_SECONDS = 1.0  # a longer one separates clips
LEAD_SECONDS, TAIL_SECONDS = 0.05, 0.15  # kept around a sound
# Of 60 copies of drum hits (OGG, MP3, 0.4 times the level, shifted), three quarters have a waveform correlation above
# 0.9; so do 3 of 4371 pairs of different hits, hard and soft strokes on one drum.
SIMILAR_SPECTRA, COPY_CORRELATION = 0.9, 0.9
WAVEFORMS_KEPT = 512
SHORTEST_SAMPLES = 3200
Span = tuple[float, float]  # start and duration in seconds


@dataclass
class Clips:
    """The usable clips, and everything that the user should know about the others."""

    __pydantic_config__ = STRICT

    records: list[Record]
    left_out: list[Reject] = field(default_factory=list)
    named: list[str] = field(default_factory=list)  # files whose caption is their name in words
    missing: list[str] = field(default_factory=list)  # listed in the captions file, but not in the folder
    seconds: float = 0.0  # of the recordings
    silence: float = 0.0  # seconds of them that were cut off

    def split(self, name: str) -> list[Record]:
        return [record for record in self.records if record.split == name]


def prepare_clips(folder: Path, captions: Path | None, clip_seconds: float, licence: str = "") -> Clips:
    """Collect, cut and clean the recordings of a folder.

    Args:
        folder: Folder of audio files.
        captions: .csv or .jsonl as for ``impact data folder``. Files that it lacks are captioned by their names.
        clip_seconds: Length of the model's clips.
        licence: Licence of clips without one of their own.

    Raises:
        UserError: There is nothing to tune on; the message states the numbers.
    """
    rows, named = caption_rows(folder, captions)
    collection = collect(folder, rows, VALID_SHARE, licence)
    if captions is not None and len(collection.missing) == len(rows) - len(named):
        raise UserError(
            f"{captions}: none of its {len(collection.missing)} files is in {folder} (first: "
            f"{collection.missing[0]!r}); `file` is the path inside that folder"
        )
    clips = Clips([], named=named, missing=collection.missing)
    with progress("listening to your recordings", len(collection.records), unit="files") as bar:
        for record in collection.records:
            clips.records += cut(record, clip_seconds, clips)
            bar.advance()
    clips.records = [record for record in clips.records if is_usable(record, clips.left_out)]
    drop_copies(clips, clip_seconds)
    check_enough(clips, folder, len(collection.records))
    return clips


def caption_rows(folder: Path, captions: Path | None) -> tuple[list[dict], list[str]]:
    """List the rows of the captions file and of the files that it lacks, and the names of the latter."""
    files = [str(path.relative_to(folder)) for path in audio_files(folder)]
    rows = read_captions(captions) if captions is not None else []
    listed = {row["file"].strip() for row in rows if row.get("caption")}
    named = [file for file in files if file not in listed]
    known = {row["file"].strip(): row for row in rows}
    rows = [row for row in rows if row.get("caption") or not (folder / row["file"].strip()).is_file()]
    return rows + [{**known.get(name, {}), "file": name, "caption": words_of(folder, name)} for name in named], named


def words_of(folder: Path, name: str) -> str:
    """Put a file's name in words: ``Kick_Drum-03.wav`` -> "kick drum". A name of digits yields that of its folder."""
    for part in (Path(name).stem, *reversed(Path(name).parent.parts), folder.resolve().name):
        apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", part)
        words = [word for word in re.split(r"[\W\d_]+", apart) if len(word) > 1]
        if words:
            return " ".join(words).lower()
    raise UserError(f"{folder / name}: has no caption, and its name has no words: list it in a captions.csv")


def cut(record: Record, clip_seconds: float, clips: Clips) -> list[Record]:
    """Cut a recording at its silences into records of one clip each; a sound without a pause stays in one piece."""
    try:
        seconds = record_seconds(record)
        if seconds > 3600 * LONGEST_HOURS:
            raise UserError(f"lasts {seconds / 3600:.1f} hours, at most {LONGEST_HOURS:g} per file: cut it first")
        if seconds < SHORTEST_SECONDS:
            raise UserError(f"too short: {max(seconds, 0):.3f} s, below {SHORTEST_SECONDS:g} s")
        spans = sounding_spans(np.concatenate(list(frame_levels(record, seconds))), clip_seconds)
        if not spans:
            raise UserError(f"silent: nothing in it is louder than {SILENT_DB:g} dBFS")
    except UserError as error:
        clips.left_out.append(Reject(record.id, record.path, record.start, str(error).removeprefix(f"{record.path}: ")))
        return []
    clips.seconds += seconds
    clips.silence += max(0.0, seconds - sum(duration for _, duration in spans))
    parts = []
    for start, duration in spans:
        start, duration = round(record.start + start, 2), round(min(duration, seconds - start), 2)
        name = record.id if len(spans) == 1 else f"{record.id} at {start:g} s"
        parts.append(replace(record, id=name, start=start, duration=duration))
    return parts


def frame_levels(record: Record, seconds: float) -> Iterator[np.ndarray]:
    """Measure the RMS of frames of 20 ms, in dB of full scale, a minute at a time: arrays (T,)."""
    start, end = record.start, record.start + seconds
    while start < end - FRAME_SECONDS:
        duration = min(BLOCK_FRAMES * FRAME_SECONDS, end - start)
        samples, rate = read_samples(record.path, start, duration)
        size = max(1, round(FRAME_SECONDS * rate))
        mono = np.nan_to_num(samples.mean(axis=1, dtype=np.float64))
        power = np.square(np.pad(mono, (0, -len(mono) % size))).reshape(-1, size).mean(axis=1)
        yield 10 * np.log10(np.maximum(power, 1e-12))
        start += duration


def sounding_spans(levels: np.ndarray, clip_seconds: float) -> list[Span]:
    """Find the clips of a recording from its levels (T,), separated by silence.

    Sounds separated by less than a second share a clip as long as they fit. A sound longer than ``clip_seconds`` gets a
    span of its own, which precomputing cuts into consecutive segments.
    """
    active = np.flatnonzero(levels > max(levels.max() - QUIET_DB, SILENT_DB))
    if not len(active):
        return []
    breaks = np.flatnonzero(np.diff(active) * FRAME_SECONDS > PAUSE_SECONDS) + 1
    sounds = [(float(run[0]) * FRAME_SECONDS, float(run[-1] + 1) * FRAME_SECONDS) for run in np.split(active, breaks)]
    packed = [sounds[0]]
    for begin, end in sounds[1:]:
        first, last = packed[-1]
        fits = end - first + LEAD_SECONDS + TAIL_SECONDS <= clip_seconds
        if fits and begin - last <= LONGEST_PAUSE_SECONDS:
            packed[-1] = (first, end)
        else:
            packed.append((begin, end))
    starts = [max(0.0, begin - LEAD_SECONDS) for begin, _ in packed]
    return [(start, end + TAIL_SECONDS - start) for start, (_, end) in zip(starts, packed, strict=True)]


def is_usable(record: Record, left_out: list[Reject]) -> bool:
    """Check that a clip can be read and is neither silent nor clipped; otherwise append the reason to ``left_out``."""
    try:
        waveform = load_audio(record.path, SAMPLE_RATE, record.start, record.duration)
        if warning := measure_level(waveform, SAMPLE_RATE).warning:
            raise UserError(warning)
    except UserError as error:
        left_out.append(Reject(record.id, record.path, record.start, str(error).removeprefix(f"{record.path}: ")))
        return False
    return True


def drop_copies(clips: Clips, clip_seconds: float) -> None:
    """Leave out copies of another clip, at any level, in any encoding, and cut differently.

    Copies have the same waveform, apart from a shift and the noise of an encoder; two takes of one sound have not. Only
    clips of similar spectra are compared, since waveforms are long. Held-out clips are looked at first and therefore
    stay, so that nothing that is judged was trained on.
    """
    if not clips.records:
        return
    ordered = sorted(range(len(clips.records)), key=lambda i: (clips.records[i].split == "train", i))
    load = lru_cache(maxsize=WAVEFORMS_KEPT)(lambda i: _waveform(clips.records[i], clip_seconds))
    spectra = torch.stack([mean_spectrum(load(i)) for i in range(len(clips.records))])  # (N, F)
    similar = (spectra @ spectra.T >= SIMILAR_SPECTRA).numpy()  # (N, N)
    kept: list[int] = []
    for i in ordered:
        found = ((j, waveform_correlation(load(i), load(j))) for j in kept if similar[i, j])
        copied = next(((j, value) for j, value in found if value >= COPY_CORRELATION), None)
        if copied is None:
            kept.append(i)
            continue
        record, (j, value) = clips.records[i], copied
        reason = f"a copy of {clips.records[j].id}: their waveforms correlate by {value:.2f}"
        clips.left_out.append(Reject(record.id, record.path, record.start, reason))
    clips.records = [clips.records[i] for i in sorted(kept)]


def _waveform(record: Record, clip_seconds: float) -> Tensor:
    duration = min(record.duration or clip_seconds, clip_seconds)
    waveform = load_audio(record.path, SAMPLE_RATE, record.start, duration)
    return fit_length(waveform, max(len(waveform), SHORTEST_SAMPLES))


def waveform_correlation(first: Tensor, second: Tensor) -> float:
    """Correlate waveforms (S,) and (S',): the largest absolute value over all shifts."""
    length = 1 << (len(first) + len(second) - 1).bit_length()
    spectra = [torch.fft.rfft(each / each.norm().clamp(min=1e-9), length) for each in (first, second)]
    return float(torch.fft.irfft(spectra[0] * spectra[1].conj(), length).abs().max())


def mean_spectrum(waveform: Tensor) -> Tensor:
    """Compute the mean mel spectrum (F,) of a waveform (S,), with norm 1; silence does not change it."""
    power = LogMel()(waveform[None])[0].exp().square().mean(dim=1)  # (F,)
    return power.sqrt() / power.sum().sqrt()


def check_enough(clips: Clips, folder: Path, num_files: int) -> None:
    """Check that there is something to train on and something to hold out.

    Raises:
        UserError: There is not; the message states the numbers and the first reason.
    """
    why = ""
    if clips.left_out:
        first = clips.left_out[0]
        why = f"; left out: {len(clips.left_out)}, first {first.id!r}: {first.reason}"
    if len(clips.records) < FEWEST_CLIPS:
        raise UserError(
            f"{folder}: {len(clips.records)} usable clips in {num_files} files, at least {FEWEST_CLIPS} are needed{why}"
        )
    if not (clips.split("train") and clips.split("valid")):
        raise UserError(
            f"{folder}: all {len(clips.records)} usable clips are from one source, so none can be held out: add a "
            f"second recording, or give a `source` per file in captions.csv{why}"
        )
