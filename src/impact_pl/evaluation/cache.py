"""Compute features of many sounds with a cache keyed by content.

A renamed file is found in the cache; a changed file is computed again.
"""

import hashlib
import io
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from impact_pl.audio import fit_length, load_audio
from impact_pl.data.manifest import Record
from impact_pl.evaluation.networks.interface import Network


def extract(
    network: Network,
    sounds: Sequence[str | Path | Record],
    duration: float | None = None,
    cache_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    padding: str = "silence",
) -> list:
    """Compute the features of sounds, in order.

    Args:
        network: The network. Its ``identity`` is part of the cache key.
        sounds: Files, or records of a manifest (which may refer to a segment of a file).
        duration: Fit every sound to this many seconds first (:func:`fit_length`); None: use complete sounds.
        cache_dir: Folder for features as ``.npz``. The key consists of the file's bytes, the segment, the network's
            identity, ``duration`` and ``padding``, which determine the features completely, so entries never become
            stale.
        progress: Called with (sounds done, total).
        padding: Padding of shorter sounds: silence, or repeat.
    """
    features = []
    for done, sound in enumerate(sounds, start=1):
        record = sound if isinstance(sound, Record) else Record(id=str(sound), path=str(sound))
        features.append(_extract_one(network, record, duration, padding, cache_dir))
        if progress is not None:
            progress(done, len(sounds))
    return features


def _extract_one(
    network: Network, record: Record, duration: float | None, padding: str, cache_dir: str | Path | None
) -> Any:
    entry = None
    if cache_dir is not None and Path(record.path).is_file():
        part = f"{network.identity},{record.start},{record.duration},{duration}"
        part += "" if padding == "silence" else f",{padding}"
        key = hashlib.sha256(Path(record.path).read_bytes() + part.encode()).hexdigest()
        entry = Path(cache_dir) / f"{key}.npz"
        cached = _read_entry(entry, network.features_class)
        if cached is not None:
            return cached
    waveform = load_audio(record.path, network.sample_rate, record.start, record.duration)
    if duration is not None:
        waveform = fit_length(waveform, round(duration * network.sample_rate), padding)
    features = network(waveform.numpy())
    if entry is not None:
        _write_entry(entry, features)
    return features


def _read_entry(entry: Path, kind: type) -> Any:
    """Read a cache entry. Return None if it does not exist or is damaged."""
    if not entry.is_file():
        return None
    try:
        with zipfile.ZipFile(entry) as bundle:  # checks the CRC of each member before numpy parses its header
            members = {name: io.BytesIO(bundle.read(name)) for name in bundle.namelist()}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
        return None
    arrays = {name.removesuffix(".npy"): np.load(member, allow_pickle=False) for name, member in members.items()}
    return kind(**arrays) if arrays.keys() <= {field.name for field in fields(kind)} else None


def _write_entry(entry: Path, features: Any) -> None:
    arrays = {name: array for name, array in asdict(features).items() if array is not None}
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=entry.parent, suffix=".tmp", delete=False) as file:
        np.savez(file, **arrays)
    Path(file.name).replace(entry)
