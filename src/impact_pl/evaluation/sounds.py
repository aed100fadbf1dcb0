"""Sets of sounds to compare: their files, names, captions and levels, and the noise baseline."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from impact_pl.audio import SAMPLE_RATE, SUFFIXES, LevelReport, fit_length, load_audio, measure_level, read_samples
from impact_pl.data.lists import Sounds
from impact_pl.data.manifest import Record, file_stem, file_stems, read_manifest
from impact_pl.errors import UserError
from impact_pl.evaluation.labels import labels_of
from impact_pl.files import read_jsonl


def list_sounds(path: str | Path, split: str | None = None) -> Sounds:
    """List the sounds of a folder (not of subfolders) or of a manifest (``.jsonl``), sorted by name.

    Raises:
        UserError: The path does not exist or has no sounds, or two files have the same name.
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        records = [record for record in read_manifest(path) if split in (None, record.split)]
        names = file_stems([record.id for record in records])
    elif not path.is_dir():
        raise UserError(f"{path}: no such folder of sounds (or .jsonl manifest)")
    elif split is not None:
        raise UserError(f"{path}: a folder has no split {split!r}; only a manifest (.jsonl) has splits")
    else:
        files = [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()]
        records = [Record(id=file.stem, path=str(file)) for file in files]
        names = [record.id for record in records]
    if not records:
        what = f"record of split {split!r}" if split and path.suffix == ".jsonl" else "sound"
        raise UserError(f"{path}: holds no {what} (looked for {', '.join(SUFFIXES)})")
    if len(set(names)) < len(names):
        twice = next(name for name in sorted(names) if names.count(name) > 1)
        raise UserError(f"{path}: two sounds are named {twice!r}; names have to be unique to be matched")
    return dict(sorted(zip(names, records, strict=True)))


class CaptionLine(BaseModel):
    """Line about a sound, from a manifest (``id``) or from generation (``file``)."""

    model_config = ConfigDict(strict=True)  # other keys are allowed
    id: str | None = None
    file: str | None = None
    caption: str | None = None
    labels: tuple[str, ...] = ()


EXPECTED = 'expected {"id" or "file": ..., "caption": ...}'


def read_caption_lines(path: str | Path) -> Iterator[tuple[str, CaptionLine]]:
    """Yield (sound name, line).

    Raises:
        UserError: The file is missing, or a line is invalid (the message gives its number).
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file of captions")
    for number, line in read_jsonl(path, CaptionLine, EXPECTED):
        if line.id is None and (line.file is None or line.caption is None):
            raise UserError(f"{path}, line {number}: {EXPECTED}")
        yield file_stem(line.id) if line.id is not None else Path(line.file or "").stem, line


def read_captions(path: str | Path) -> dict[str, str]:
    """Read captions by sound name.

    Raises:
        UserError: See :func:`read_caption_lines`; also if there is no caption.
    """
    captions = {name: line.caption for name, line in read_caption_lines(path) if line.caption}
    if not captions:
        raise UserError(f"{path}: holds no caption")
    return captions


def find_captions(given: str | Path | None, generated: str | Path, reference: Sounds) -> dict[str, str]:
    """Read captions from the given file, else from generated.jsonl next to the sounds, else from the reference."""
    written = Path(generated) / "generated.jsonl"
    if given is not None or written.is_file():
        return read_captions(given or written)
    return {name: record.caption for name, record in reference.items() if record.caption}


def find_labels(given: str | Path | None, reference: Sounds) -> dict[str, str]:
    """Collect labels from the reference's manifest and from a file of captions, which takes precedence."""
    lines = read_caption_lines(given) if given is not None else []
    return labels_of(reference) | labels_of({name: Record(name, name, labels=line.labels) for name, line in lines})


def part_of(record: Record) -> tuple[str, float, float | None]:
    """Return the identity of a sound: its file, and the segment of it."""
    return record.path, record.start, record.duration


def distinct(sounds: Sounds) -> Sounds:
    """Keep the first name of each sound: a manifest may have several records per sound, with different captions."""
    first: dict[tuple, str] = {}
    for name, record in sounds.items():
        first.setdefault(part_of(record), name)
    return {name: sounds[name] for name in first.values()}


def draw(items: list, num: int, generator: np.random.Generator) -> list:
    """Draw ``num`` of ``items`` without replacement, keeping their order."""
    return [items[index] for index in sorted(generator.permutation(len(items))[:num])]


def measure_record(record: Record) -> LevelReport:
    """Measure the level of a sound's file at its own rate."""
    samples, rate = read_samples(record.path, record.start, record.duration)
    return measure_level(torch.from_numpy(samples).mean(dim=1), rate)


def levels_of(records: Sequence[Record], duration: float, padding: str = "silence") -> list[float]:
    """Measure the RMS of each record after fitting it to ``duration`` seconds."""
    levels = []
    for record in records:
        waveform = load_audio(record.path, SAMPLE_RATE, record.start, record.duration)
        fitted = fit_length(waveform, round(duration * SAMPLE_RATE), padding).numpy()
        levels.append(float(np.sqrt(np.square(fitted, dtype=np.float64).mean())))
    return levels


def white_noise(levels: Sequence[float], duration: float, seed: int) -> Iterator[np.ndarray]:
    """Generate white noise (S,) at each level, a baseline that any model has to beat."""
    generator = np.random.default_rng(seed)
    for level in levels:
        yield (level * generator.standard_normal(round(duration * SAMPLE_RATE))).astype(np.float32)


def longest(records: Sequence[Record]) -> float:
    """Measure the duration of the longest sound, in seconds."""
    lengths = [len(load_audio(record.path, SAMPLE_RATE, record.start, record.duration)) for record in records]
    return max(lengths) / SAMPLE_RATE
