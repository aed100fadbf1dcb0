"""Write long sounds block by block."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile

from impact_pl.audio import FORMATS
from impact_pl.errors import UserError
from impact_pl.partial import partial_path, sweep_partials

PCM_BITS = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
PROBE_BYTES = 1 << 20  # written to learn why libsndfile could not write
MAX_WAV_BYTES = (1 << 32) - 4096  # beyond this, WAV's 32-bit sizes overflow and RF64 is written


class AudioWriter:
    """An audio file that appears complete when the context ends without an exception, or not at all.

    Args:
        path: A .wav or .flac file.
        sample_rate: Rate in Hz.
        num_channels: Number of channels.
        subtype: Preferred sample format, in libsndfile's names; PCM_16 where the format does not have it.
        num_samples: Expected length, if known: a .wav beyond 4 GB is written as RF64.

    Raises:
        UserError: The suffix is unknown.
    """

    def __init__(
        self, path: Path, sample_rate: int, num_channels: int = 1, subtype: str = "PCM_16", num_samples: int = 0
    ) -> None:
        file_format = FORMATS.get(path.suffix.lower())
        if file_format is None:
            raise UserError(f"{path}: unknown audio suffix {path.suffix!r}; choose one of {', '.join(FORMATS)}")
        known = {*PCM_BITS, "FLOAT", "DOUBLE"} & soundfile.available_subtypes(file_format).keys()
        subtype = subtype if subtype in known else "PCM_16"
        if file_format == "WAV" and num_samples * num_channels * 8 > MAX_WAV_BYTES:
            file_format = "RF64"
        self.path, self.bits, self._partial = path, PCM_BITS.get(subtype), partial_path(path)
        with self._explained():
            sweep_partials(path.parent, path.name)
            self._partial.touch()
            self._file = soundfile.SoundFile(self._partial, "w", sample_rate, num_channels, subtype, format=file_format)

    def __enter__(self) -> "AudioWriter":
        return self

    def write(self, samples: np.ndarray) -> None:
        """Append samples (S, C), floating point; beyond [-1, 1] they are clipped."""
        with self._explained():
            self._file.write(samples if self.bits is None else as_integers(samples, self.bits))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._partial.unlink, missing_ok=True)
            if kind is not None:  # which also explains why the file cannot be completed
                stack.enter_context(contextlib.suppress(soundfile.LibsndfileError))
                self._file.close()
                return
            with self._explained():
                self._file.close()
                os.replace(self._partial, self.path)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise the system's own error, which libsndfile does not pass on, with the name of the file to be written."""
        try:
            try:
                yield
            except soundfile.LibsndfileError:
                with open(self._partial, "ab") as file:
                    file.write(bytes(PROBE_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
                raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def as_integers(samples: np.ndarray, bits: int) -> np.ndarray:
    """Round samples to ``bits``, left-aligned in int32: unlike libsndfile's own scaling, the inverse of reading."""
    half = 1 << (bits - 1)
    return np.clip(np.rint(samples * half), -half, half - 1).astype(np.int64).astype(np.int32) << (32 - bits)
