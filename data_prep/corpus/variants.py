"""Variants of a recording: at another speed, which moves its pitch too, and at another level.

A model that hears the same few clips thousands of times learns them by heart; variants make that harder.
"""

from dataclasses import replace
from pathlib import Path

from impact_pl.audio import load_audio, save_audio
from impact_pl.data.manifest import Record, file_stem
from impact_pl.datasets.base import draw_of

RATES = (
    14_400,
    15_200,
    16_000,
    16_800,
    17_600,
)  # Hz; read at such a rate and played at 16 kHz, a clip has another speed
GAIN_DB = (-9.0, 3.0)
LARGEST_PEAK = 0.95


def vary(record: Record, number: int, folder: Path) -> Record:
    """Write variant ``number`` of a record into ``folder``, unless it is there.

    Speed and gain follow from the record's id and the number. A gain never takes a peak beyond ``LARGEST_PEAK``. The
    returned record's path is relative to the folder that ``folder`` lies in.
    """
    name = f"{record.id}/variant{number}"
    path = folder / f"{file_stem(name)}.flac"
    if not path.is_file():
        rate = RATES[int(draw_of(f"speed of {name}") * len(RATES))]
        low, high = GAIN_DB
        gain = 10 ** ((low + (high - low) * draw_of(f"gain of {name}")) / 20)
        waveform = load_audio(record.path, rate, record.start, record.duration)
        waveform = waveform * min(gain, LARGEST_PEAK / max(float(waveform.abs().max()), 1e-5))
        folder.mkdir(parents=True, exist_ok=True)
        save_audio(path, waveform)
    return replace(record, id=name, path=f"{folder.name}/{path.name}", start=0.0, duration=None)
