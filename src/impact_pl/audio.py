"""Audio input and output: load, resample, save, and measure levels.

Waveforms are mono float32 in [-1, 1].

Dimension key: B batch, S waveform samples.
"""

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from impact_pl._torchaudio import torchaudio
from impact_pl.errors import UserError
from impact_pl.partial import write_whole

SAMPLE_RATE = 16_000
SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".mp3", ".opus", ".aiff", ".aif", ".au")  # formats that load_audio reads
LEVEL_FRAME = 0.08  # seconds
FULL_SCALE = 0.999  # |sample| above which it counts as clipped; 16-bit files end at 0.99997
CLIPPED_SHARE = 0.05  # fraction of a frame's samples at full scale; none of 160 real ESC-10 clips reaches it
SILENT_DB = -60.0  # RMS of the loudest frame
LOWEST_DB = -120.0
# Formats that people often have (yt-dlp writes most of these) but none of our dependencies reads, with the remedy.
UNREADABLE_SUFFIXES = {".m4a", ".webm", ".aac", ".mp4", ".mkv", ".wma", ".mov", ".amr", ".3gp", ".m4b", ".mka"}
CONVERT = "convert what soundfile cannot read, for example with `ffmpeg -i sound.m4a sound.flac`"
HIGHEST_PEAK = 2.0  # of full scale; decoders of MP3 and OGG overshoot by less, and what is beyond 1 is clipped
CANCELLED_SHARE = 0.01  # peak of the mono mix against the channels' below which these cancel each other: -40 dB
LOWEST_RATE, HIGHEST_RATE = 100, 10_000_000  # Hz
MOST_FRAMES_PER_BYTE = 8192  # a FLAC frame of 65,535 silent samples takes more than eight bytes
FORMATS = {".wav": "WAV", ".flac": "FLAC"}  # formats that save_audio writes


class NoAudioError(UserError):
    """A file ends before the place that is asked for, though its header says otherwise."""


class AudioFile:
    """A sound file whose parts are read as mono waveforms. Use it as a context manager.

    Parts in the order of their times are read without seeking: to seek in an MP3 is to decode it from its beginning, so
    that the cost of all parts would grow with the square of the length.

    Raises:
        UserError: The file is missing, not audio, or has an implausible header.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such audio file")
        if self.path.suffix.lower() == ".raw":  # soundfile believes the suffix
            raise UserError(f"{self.path}: raw samples name neither rate nor format: convert them to WAV or FLAC")
        with self._explained():
            self._file = soundfile.SoundFile(os.fsencode(self.path))  # str has to be UTF-8
        self.rate, self.num_frames = self._file.samplerate, self._file.frames
        self.num_channels, self.subtype = self._file.channels, self._file.subtype  # libsndfile's name, as PCM_16
        self._position = 0
        try:
            check_header(self.path, self.rate, self.num_frames)
        except UserError:
            self._file.close()
            raise

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def seconds(self) -> float:
        """Duration that the header claims."""
        return self.num_frames / self.rate

    def load(self, sample_rate: int = SAMPLE_RATE, start: float = 0.0, duration: float | None = None) -> Tensor:
        """Read a part as :func:`load_audio` does."""
        mono = torch.from_numpy(to_mono(self.read(start, duration), self.path))
        return resample(mono, self.rate, sample_rate).clamp(-1.0, 1.0)

    def read(self, start: float = 0.0, duration: float | None = None) -> np.ndarray:
        """Read the original samples (S, channels) of a part, float32."""
        first = round(start * self.rate)
        last = self.num_frames if duration is None else round((start + duration) * self.rate)
        if not 0 <= first < self.num_frames or first >= last:
            raise UserError(f"{self.path}: no audio at {start:g} s (the file lasts {self.seconds:g} s)")
        with self._explained():
            if abs(first - self._position) <= 1:  # times are rounded to samples
                first = self._position
            else:
                self._file.seek(first)
            self._position = -2  # next to no part, in case that reading fails
            samples = self._file.read(last - first, dtype="float32", always_2d=True)
            self._position = first + len(samples)
        if not samples.size:
            raise NoAudioError(
                f"{self.path}: holds no audio samples at {start:g} s: it ends earlier than its header says"
            )
        return samples

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except soundfile.LibsndfileError as error:
            raise UserError(f"{self.path}: cannot be read as audio ({error.error_string})") from error


def load_audio(
    path: str | Path, sample_rate: int = SAMPLE_RATE, start: float = 0.0, duration: float | None = None
) -> Tensor:
    """Read a file (WAV, FLAC, OGG, MP3, ...) as mono at ``sample_rate``.

    Args:
        path: The file.
        sample_rate: Rate of the returned waveform, in Hz.
        start: Where to begin, in seconds.
        duration: Seconds to read; None reads to the end. A file that ends earlier gives fewer samples.

    Returns:
        Waveform (S,), float32 in [-1, 1].

    Raises:
        UserError: The file is missing, not audio, damaged, empty at that place, holds NaN or infinity, is far
            beyond full scale, or has channels in antiphase.
    """
    with AudioFile(path) as file:
        return file.load(sample_rate, start, duration)


def to_mono(samples: np.ndarray, path: str | Path) -> np.ndarray:
    """Mix original samples (S, channels) down to (S,).

    Raises:
        UserError: They hold NaN or infinity, are far beyond full scale, or the channels are in antiphase.
    """
    if not np.isfinite(samples).all():
        raise UserError(f"{path}: holds NaN or infinite samples")
    peak = float(np.abs(samples).max())
    if peak > HIGHEST_PEAK:
        raise UserError(f"{path}: its peak is {peak:.3g} times full scale, which would be clipped: scale it to [-1, 1]")
    mono = torch.from_numpy(samples).mean(dim=1)
    if mono.abs().max() < CANCELLED_SHARE * peak:
        raise UserError(f"{path}: its channels cancel each other when they are mixed to mono: invert one, or keep one")
    return mono.numpy()


def read_samples(path: str | Path, start: float = 0.0, duration: float | None = None) -> tuple[np.ndarray, int]:
    """Read a file's original samples (S, channels), float32, and its rate in Hz; arguments as in :func:`load_audio`.

    Raises:
        UserError: The file is missing, not audio, damaged, or empty at that place.
    """
    with AudioFile(path) as file:
        return file.read(start, duration), file.rate


def audio_seconds(path: str | Path) -> float:
    """Read the duration of a file in seconds from its header.

    Raises:
        UserError: The file is missing or not audio.
    """
    with AudioFile(path) as file:
        return file.seconds


def check_header(path: Path, rate: int, num_frames: int) -> None:
    """Check that a header claims a plausible rate, and no more samples than the file's bytes can hold.

    Raises:
        UserError: The header is implausible; the message states the numbers.
    """
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UserError(f"{path}: its header claims {rate} Hz, outside {LOWEST_RATE} to {HIGHEST_RATE}: is it damaged?")
    size = path.stat().st_size
    if num_frames > size * MOST_FRAMES_PER_BYTE:
        raise UserError(f"{path}: its header claims {num_frames} samples, but it has {size} bytes: is it damaged?")


def resample(waveform: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Resample ``waveform`` (..., S) by windowed-sinc interpolation.

    Unusual rates (11,127 Hz) would need a filter bank of gigabytes. For these the ratio is rounded to a fraction of
    three digits, an error of less than a millionth.
    """
    if from_rate == to_rate:
        return waveform
    ratio = Fraction(to_rate, from_rate).limit_denominator(1000)
    return _resampler(ratio.denominator, ratio.numerator)(waveform)


@lru_cache(maxsize=16)
def _resampler(from_rate: int, to_rate: int) -> torchaudio.transforms.Resample:
    """Build a resampler, cached because its filter bank costs more to build than to apply to a short clip."""
    return torchaudio.transforms.Resample(from_rate, to_rate)


def within_full_scale(waveforms: Tensor) -> Tensor:
    """Scale sounds (B, S) that exceed full scale to a peak of 1 instead of clipping them; leave others unchanged."""
    return waveforms / waveforms.abs().amax(dim=-1, keepdim=True).clamp(min=1)


def save_audio(path: str | Path, waveform: Tensor, sample_rate: int = SAMPLE_RATE) -> None:
    """Write a mono waveform (S,) with 16 bits per sample; samples beyond [-1, 1] are clipped.

    The file appears complete or not at all.

    Args:
        path: The file; its suffix decides on the format.
        waveform: The samples (S,).
        sample_rate: Their rate, in Hz.

    Raises:
        UserError: The suffix is unknown, the waveform is not (S,), or it has non-finite samples.
    """
    path = Path(path)
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise UserError(f"{path}: unknown audio suffix {path.suffix!r}; choose one of {', '.join(FORMATS)}")
    if waveform.ndim != 1:
        raise UserError(f"{path}: expected a mono waveform (S,), got shape {tuple(waveform.shape)}")
    if not torch.isfinite(waveform).all():
        raise UserError(f"{path}: the waveform holds NaN or infinite samples; nothing was written")
    samples = waveform.detach().float().cpu().clamp(-1.0, 1.0).numpy()
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, sample_rate, format=file_format, subtype="PCM_16")
    write_whole(path, encoded.getvalue())


def fit_length(waveform: Tensor, num_samples: int, padding: str = "silence") -> Tensor:
    """Cut or pad ``waveform`` (..., S) to ``num_samples``.

    Padding is silence. With ``padding`` "repeat" a short waveform is first repeated as often as it fits completely
    (LAION-CLAP's "repeatpad").
    """
    length = waveform.shape[-1]
    if padding == "repeat" and 0 < length < num_samples:
        waveform = torch.cat([waveform] * (num_samples // length), dim=-1)
    missing = num_samples - waveform.shape[-1]
    return torch.nn.functional.pad(waveform, (0, missing)) if missing > 0 else waveform[..., :num_samples]


@dataclass(frozen=True)
class LevelReport:
    """Level of a waveform, in dB of full scale, at least -120. ``warning`` describes what is wrong with it."""

    rms_db: float  # of the complete waveform
    loudest_db: float  # RMS of the loudest 80 ms
    peak_db: float
    clipped_share: float  # largest fraction of samples at full scale in any 80 ms

    @property
    def is_silent(self) -> bool:
        return self.loudest_db < SILENT_DB

    @property
    def is_clipped(self) -> bool:
        return self.clipped_share >= CLIPPED_SHARE

    @property
    def warning(self) -> str | None:
        if self.is_silent:
            return f"silent: its loudest 80 ms are at {self.loudest_db:.0f} dBFS"
        if self.is_clipped:
            return f"clipped: {self.clipped_share:.0%} of the samples of an 80 ms frame are at full scale"
        return None


def measure_level(waveform: Tensor, sample_rate: int) -> LevelReport:
    """Measure loudness and clipping of a waveform (S,) in [-1, 1].

    Frames are 80 ms long with a hop of 40 ms. A normalised recording touches full scale in single samples (a full-scale
    sine in 3 % of them); an overdriven one stays there.
    """
    magnitude = waveform.detach().abs().double().cpu()  # (S,)
    size = min(round(LEVEL_FRAME * sample_rate), len(magnitude))
    hop = max(1, size // 2)
    padded = torch.nn.functional.pad(magnitude, (0, (size - len(magnitude)) % hop))  # include the last samples
    frames = padded.unfold(0, size, hop)  # (M, size)
    return LevelReport(
        rms_db=_decibels(magnitude.square().mean().sqrt()),
        loudest_db=_decibels(frames.square().mean(dim=1).max().sqrt()),
        peak_db=_decibels(magnitude.max()),
        clipped_share=float((frames >= FULL_SCALE).double().mean(dim=1).max()),
    )


def _decibels(amplitude: Tensor) -> float:
    return max(LOWEST_DB, 20 * math.log10(max(float(amplitude), 1e-9)))
