"""Generated audio: waveforms with their sample rate, captions and seeds."""

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from impact_pl.audio import FORMATS, save_audio
from impact_pl.errors import UserError

MAX_STEM = 60  # characters of a caption in a file name


@dataclass(frozen=True, eq=False)
class GeneratedAudio:
    """Generated sounds.

    Attributes:
        waveforms: (B, S), mono float32 in [-1, 1], on the CPU.
        sample_rate: Sample rate in Hz.
        captions: One caption per sound; None if generated without captions.
        seeds: One seed per sound.
    """

    waveforms: Tensor
    sample_rate: int
    captions: tuple[str | None, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.waveforms)

    def save(self, path: str | Path) -> list[Path]:
        """Write a single sound to ``path`` (.wav or .flac), or any number as WAV files into the folder ``path``.

        Returns:
            Paths of the files; in a folder ``0000_a_dog_barks.wav`` and so on.

        Raises:
            UserError: ``path`` is a file, but there are several sounds.
        """
        path = Path(path)
        if path.suffix.lower() in FORMATS:
            if len(self) > 1:
                raise UserError(f"{path} is one file, but there are {len(self)} sounds: give a folder")
            files = [path]
        else:
            path.mkdir(parents=True, exist_ok=True)
            files = [path / f"{file_stem(i, caption or 'sound')}.wav" for i, caption in enumerate(self.captions)]
        for file, waveform in zip(files, self.waveforms, strict=True):
            save_audio(file, waveform, self.sample_rate)
        return files


def file_stem(index: int, caption: str) -> str:
    """Build a file name without suffix from a caption: ``0000_a_dog_barks``."""
    words = re.sub(r"\W+", "_", caption.lower()).strip("_")
    return f"{index:04d}_{words[:MAX_STEM]}"
