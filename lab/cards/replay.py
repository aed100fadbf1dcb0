"""Does a model replay its training set? How near its sounds are to the nearest training clip.

Two measures, because they see different things. The cosine of YAMNet's embeddings is near 1 for sounds of one kind,
whoever recorded them: it tells what a sound resembles. The correlation of spectral envelopes over time is near 1 only
for the same recording, at any level and shifted in time: it tells copies. A figure alone says nothing, so both are also
taken of held-out real sounds (near by kind alone) and of the codec's reconstructions of training clips (copies).

Dimension key: N sounds, M training clips, D dimensions, F bands, T frames, S samples.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from impact_pl.audio import LogMel

PERCENTILES = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
POOLED = 4  # mel bins a band, and 10 ms a frame: 16 bands, 25 frames a second
FLOOR = 1e-3  # -60 dB: what is below is silence
CHUNK = 16  # sounds that are compared with all clips at once
Found = tuple[np.ndarray, np.ndarray]  # similarity to the nearest training clip (N,), and whose it is (N,)


@lru_cache(maxsize=1)
def _log_mel() -> LogMel:
    return LogMel()


@torch.no_grad()
def envelope(waveform: Tensor) -> Tensor:
    """Waveform (S,) at 16 kHz -> (F, T): its log-mel level, less each band's mean, with norm 1 (0 of a steady one)."""
    log_mel = _log_mel()
    floor = (FLOOR * log_mel.window.square().sum().sqrt() * log_mel.filters.sum(dim=1)).log()  # of noise at -60 dB
    level = torch.maximum(log_mel(waveform.float()[None])[0], floor[:, None])
    pooled = torch.nn.functional.avg_pool2d(level[None], POOLED)[0]
    centred = pooled - pooled.mean(dim=1, keepdim=True)
    return centred / centred.norm().clamp(min=1e-2)


@torch.no_grad()
def nearest_envelopes(envelopes: Tensor, training: Tensor) -> Found:
    """Envelopes (N, F, T) and (M, F, T) -> the largest correlation over all clips and all shifts in time.

    Shifts are tried both into silence and around the clip's end, as ``data.random_shift`` does in training.
    """
    frames = envelopes.shape[2]
    beyond, around = (_nearest_of_length(envelopes, training, length) for length in (2 * frames, frames))
    nearer = around[0] > beyond[0]
    return np.where(nearer, around[0], beyond[0]), np.where(nearer, around[1], beyond[1])


def _nearest_of_length(envelopes: Tensor, training: Tensor, length: int) -> Found:
    """The same over circular shifts of ``length`` frames; of twice as many as there are, none wraps around."""
    clips = torch.fft.rfft(training, length).permute(2, 1, 0).conj_physical().contiguous()  # (frequencies, F, M)
    largest, whose = [], []
    for sounds in envelopes.split(CHUNK):
        spectra = torch.fft.rfft(sounds, length).permute(2, 0, 1).contiguous()  # (frequencies, N', F)
        correlations = torch.fft.irfft(spectra @ clips, length, dim=0)  # (shifts, N', M), summed over bands
        best = correlations.amax(dim=0).max(dim=1)
        largest.append(best.values.numpy())
        whose.append(best.indices.numpy())
    return np.concatenate(largest), np.concatenate(whose)


def nearest_embeddings(embeddings: np.ndarray, training: np.ndarray) -> Found:
    """Embeddings (N, D) and (M, D) -> the largest cosine over all clips."""
    sounds, clips = (
        each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12) for each in (embeddings, training)
    )
    cosines = sounds @ clips.T  # (N, M)
    return cosines.max(axis=1), cosines.argmax(axis=1)


def replay_rows(found: dict[str, Found], training_ids: Sequence[str], replayed: str) -> dict[str, dict]:
    """The distribution of the similarity to the nearest training clip, of each set of sounds.

    Args:
        found: name of a set -> the nearest training clips of its sounds.
        training_ids: of the clips (M).
        replayed: name of the set that shows what replaying looks like.

    Returns:
        name -> ``percentiles`` (PERCENTILES), ``as_replayed`` (share of sounds that are nearer to a training clip than
        the lowest tenth of the set ``replayed`` is), and of each sound ``similarity`` and ``nearest`` (a clip's id).
    """
    threshold = np.percentile(found[replayed][0], 10)
    return {
        name: {
            "percentiles": [float(each) for each in np.percentile(similarity, PERCENTILES)],
            "as_replayed": float((similarity > threshold).mean()),
            "similarity": [round(float(each), 4) for each in similarity],
            "nearest": [training_ids[index] for index in whose],
        }
        for name, (similarity, whose) in found.items()
    }
