"""A recording under edit: read in parts, changed in parts, and written without touching the rest.

Dimension key: S samples (per channel) at the recording's own rate, C channels.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from impact_pl.audio import HIGHEST_PEAK, HIGHEST_RATE, LOWEST_RATE, AudioFile
from impact_pl.errors import UserError
from impact_pl.inference.sounds import GeneratedAudio
from impact_pl.inference.writer import AudioWriter

MAX_CHANNELS = 2
BLOCK = 1 << 18  # samples copied at once when a recording is saved

Samples = np.ndarray  # (S, C) float64, which holds 32-bit integers exactly


class Recording:
    """One or two channels at their own sample rate, whose file is only read where it is asked for.

    Positions are samples, counted from the beginning of the original; what was added in front of it is negative.

    Args:
        source: An audio file, or samples (S, C).
        sample_rate: Rate in Hz, for samples.
        subtype: Sample format that :meth:`save` prefers, in libsndfile's names; None: that of the file, or PCM_16.

    Raises:
        UserError: The file is missing, not audio or damaged, or has more than two channels or no samples.
    """

    def __init__(self, source: Path | Samples, sample_rate: int = 0, subtype: str | None = None) -> None:
        self.source = source
        if isinstance(source, Path):
            with AudioFile(source) as file:
                self.sample_rate, self.num_channels, self.stop = file.rate, file.num_channels, file.num_frames
                subtype = subtype or file.subtype
        else:
            self.sample_rate = sample_rate
            self.stop, self.num_channels = source.shape
        self.subtype = subtype or "PCM_16"
        self.name = str(source) if isinstance(source, Path) else "the sound"
        self.start, self._original = 0, self.stop
        self._changes: list[tuple[int, Samples]] = []  # position and samples, later ones on top
        if not self.stop:
            raise UserError(f"{self.name}: holds no audio samples")
        if not 1 <= self.num_channels <= MAX_CHANNELS:
            raise UserError(
                f"{self.name}: has {self.num_channels} channels, but only mono and stereo are edited: mix it down, for "
                "example with `ffmpeg -i in.wav -ac 2 out.wav`"
            )

    @property
    def num_samples(self) -> int:
        return self.stop - self.start

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sample_rate

    def read(self, start: int, stop: int) -> Samples:
        """Read the samples (stop - start, C) as they are now. Outside of the recording there is silence.

        Raises:
            UserError: The file is damaged there, or its samples are not finite or far beyond full scale.
        """
        out = np.zeros((stop - start, self.num_channels))
        first, last = max(start, 0), min(stop, self._original)
        if first < last:
            out[first - start : last - start] = self._read_original(first, last)
        for position, samples in self._changes:
            first, last = max(start, position), min(stop, position + len(samples))
            if first < last:
                out[first - start : last - start] = samples[first - position : last - position]
        return out

    def write(self, start: int, samples: Samples) -> None:
        """Replace the samples from ``start`` on by (S, C); beyond its ends the recording becomes longer."""
        self._changes.append((start, samples))
        self.start, self.stop = min(self.start, start), max(self.stop, start + len(samples))

    def _read_original(self, start: int, stop: int) -> Samples:
        if not isinstance(self.source, Path):
            return self.source[start:stop]
        try:
            with soundfile.SoundFile(os.fsencode(self.source)) as file:
                file.seek(start)
                samples = file.read(stop - start, dtype="float64", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise UserError(f"{self.name}: cannot be read as audio ({error.error_string})") from error
        where = f"{self.name}: from {start / self.sample_rate:g} s"
        if len(samples) < stop - start:
            raise UserError(f"{where} it ends earlier than its header says: is the file damaged?")
        if not np.isfinite(samples).all():
            raise UserError(f"{where} it holds NaN or infinite samples: repair or cut them")
        if np.abs(samples).max() > HIGHEST_PEAK:
            raise UserError(f"{where} its peak is over {HIGHEST_PEAK:g} times full scale: scale it to [-1, 1]")
        return samples

    def blocks(self) -> Iterator[Samples]:
        """Yield all samples in blocks (at most BLOCK, C)."""
        for start in range(self.start, self.stop, BLOCK):
            yield self.read(start, min(start + BLOCK, self.stop))

    def samples(self) -> Samples:
        """Return all samples (S, C)."""
        return self.read(self.start, self.stop)

    def save(self, path: str | Path) -> None:
        """Write the recording as .wav or .flac. What was not changed keeps its bits where the format can hold them.

        The file appears complete or not at all.

        Raises:
            UserError: The suffix is unknown, or the original cannot be read.
        """
        with AudioWriter(Path(path), self.sample_rate, self.num_channels, self.subtype, self.num_samples) as file:
            for block in self.blocks():
                file.write(block)


@dataclass(frozen=True, eq=False)
class EditedAudio:
    """A recording of which some parts were drawn by a model.

    Attributes:
        recording: The result. Where nothing was drawn it has the original's samples.
        regions: Seconds (start, end) that were drawn, counted from the beginning of the original.
        captions: One caption per region.
        seed: Seed of the drawing.
    """

    recording: Recording
    regions: tuple[tuple[float, float], ...]
    captions: tuple[str | None, ...]
    seed: int

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz, the original's."""
        return self.recording.sample_rate

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.recording.duration

    @property
    def waveform(self) -> Tensor:
        """All samples (C, S), float32. Of a long recording, :meth:`save` takes less memory."""
        return torch.from_numpy(self.recording.samples().T.astype(np.float32))

    def save(self, path: str | Path) -> Path:
        """Write a .wav or .flac file; see :meth:`Recording.save`."""
        self.recording.save(path)
        return Path(path)


Sound = str | Path | GeneratedAudio | EditedAudio | tuple[Tensor | np.ndarray, int]


def open_sound(sound: Sound) -> Recording:
    """Open what a user gives as a sound.

    Args:
        sound: An audio file; the result of a pipeline, if it is a single sound; or a waveform (S,) or (C, S) and its
            sample rate.

    Raises:
        UserError: The file cannot be read, there are several sounds, or the waveform has another shape.
    """
    if isinstance(sound, str | Path):
        return Recording(Path(sound))
    if isinstance(sound, EditedAudio):
        return Recording(sound.recording.samples(), sound.sample_rate, sound.recording.subtype)
    if isinstance(sound, GeneratedAudio):
        if len(sound) != 1:
            raise UserError(f"{len(sound)} sounds: give one, such as (sounds.waveforms[0], sounds.sample_rate)")
        sound = (sound.waveforms[0], sound.sample_rate)
    if not (isinstance(sound, tuple | list) and len(sound) == 2):
        raise UserError(f"a sound of type {type(sound).__name__}: give a file, or (waveform, sample_rate)")
    waveform, sample_rate = sound
    is_number = isinstance(sample_rate, int | float | np.number)
    if not is_number or not LOWEST_RATE <= sample_rate <= HIGHEST_RATE or sample_rate != int(sample_rate):
        raise UserError(f"sample rate {sample_rate!r}: give a whole number of Hz from {LOWEST_RATE} to {HIGHEST_RATE}")
    return Recording(_as_samples(waveform), int(sample_rate))


def _as_samples(waveform: Tensor | np.ndarray) -> Samples:
    """Convert a waveform (S,) or (C, S) to samples (S, C)."""
    if isinstance(waveform, Tensor):
        waveform = waveform.detach().cpu()
        waveform = (waveform.float() if waveform.dtype == torch.bfloat16 else waveform).numpy()  # numpy has none
    array = np.asarray(waveform)
    if array.ndim not in (1, 2) or not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise UserError(
            f"a waveform of shape {array.shape} and type {array.dtype}: expected finite floating point (S,) or (C, S); "
            "divide integers by their full scale"
        )
    peak = np.abs(array).max(initial=0.0)
    if peak > HIGHEST_PEAK:
        raise UserError(f"the waveform's peak is {peak:.3g} times full scale: scale it to [-1, 1]")
    return np.atleast_2d(array.astype(np.float64)).T
