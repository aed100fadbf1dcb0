"""Sets of sounds to compare: where they lie, what they are called, and the noise that stands beside them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from impact_pl.audio import SUFFIXES, fit_length, load_audio
from impact_pl.data.lists import Sounds
from impact_pl.data.manifest import Record, file_stem, file_stems, read_manifest
from impact_pl.errors import UserError
from impact_pl.evaluation.features import SAMPLE_RATE
from impact_pl.evaluation.labels import labels_of
from impact_pl.files import read_jsonl


def list_sounds(path: str | Path, split: str | None = None) -> Sounds:
    """The sounds of a folder (its audio files, not of subfolders) or of a manifest (``.jsonl``), sorted by name.

    Raises:
        ValueError: nothing there, no sound in it, or two files of one name.
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


def read_captions(path: str | Path) -> dict[str, str]:
    """Captions by sound name, from lines of JSON with ``caption`` and one of ``id`` (a manifest) or ``file``.

    Raises:
        ValueError: missing or empty file, or a line without these keys (its number is named).
    """
    captions = {}
    for name, entry, where in _entries(Path(path)):
        if "file" in entry and "caption" not in entry:
            raise UserError(f"{where}: {EXPECTED}")
        if entry.get("caption"):
            captions[name] = entry["caption"]
    if not captions:
        raise UserError(f"{path}: holds no caption")
    return captions


def read_labels(path: str | Path) -> dict[str, str]:
    """Labels by sound name, from the same lines, of those that have ``labels`` (labels.py says which count).

    Raises:
        ValueError: as :func:`read_captions`, or labels that are no list.
    """
    named = {}
    for name, entry, where in _entries(Path(path)):
        labels = entry.get("labels", [])
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UserError(f"{where}: key 'labels' must be a list of strings, got {labels!r}")
        named[name] = Record(name, name, labels=tuple(labels))
    return labels_of(named)


EXPECTED = 'expected {"id" or "file": ..., "caption": ...}'


def _entries(path: Path) -> Iterator[tuple[str, dict, str]]:
    """(sound name, entry, where it stands) of each line."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of captions")
    for number, entry in read_jsonl(path, dict[str, Any], EXPECTED):
        where = f"{path}, line {number}"
        name, file, caption = entry.get("id"), entry.get("file"), entry.get("caption")
        if not isinstance(name or file, str) or not isinstance(caption, str | None):
            raise UserError(f"{where}: {EXPECTED}")
        yield file_stem(name) if name else Path(str(file)).stem, entry, where


def part_of(record: Record) -> tuple[str, float, float | None]:
    """What makes two records one sound: file, and the part of it."""
    return record.path, record.start, record.duration


def distinct(sounds: Sounds) -> Sounds:
    """One name for each sound, the first: a manifest may have several records of one, each with another caption."""
    first: dict[tuple, str] = {}
    for name, record in sounds.items():
        first.setdefault(part_of(record), name)
    return {name: sounds[name] for name in first.values()}


def draw(items: list, num: int, generator: np.random.Generator) -> list:
    """``num`` of ``items`` without replacement, in their order."""
    return [items[index] for index in sorted(generator.permutation(len(items))[:num])]


def levels_of(records: Sequence[Record], duration: float, padding: str = "silence") -> list[float]:
    """The RMS of each record after fitting it to ``duration`` seconds."""
    levels = []
    for record in records:
        waveform = load_audio(record.path, SAMPLE_RATE, record.start, record.duration)
        fitted = fit_length(waveform, round(duration * SAMPLE_RATE), padding).numpy()
        levels.append(float(np.sqrt(np.square(fitted, dtype=np.float64).mean())))
    return levels


def white_noise(levels: Sequence[float], duration: float, seed: int) -> Iterator[np.ndarray]:
    """White noise (S,) at each level: the baseline that any model has to beat."""
    generator = np.random.default_rng(seed)
    for level in levels:
        yield (level * generator.standard_normal(round(duration * SAMPLE_RATE))).astype(np.float32)


def longest(records: Sequence[Record]) -> float:
    """Duration of the longest sound, in seconds."""
    return (
        max(len(load_audio(record.path, SAMPLE_RATE, record.start, record.duration)) for record in records)
        / SAMPLE_RATE
    )
