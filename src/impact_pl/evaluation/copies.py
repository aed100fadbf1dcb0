"""Find out whether a model copies its training clips, by the similarity of its sounds to the nearest of them.

Two measures see different things. The cosine of YAMNet's embeddings is near 1 for sounds of one kind, whoever recorded
them: it tells what a sound resembles. The correlation of spectral envelopes over time is near 1 only for the same
recording, at any level and shifted in time: it tells copies. A number alone means nothing, so both are compared with
held-out real sounds (alike by kind alone) and with training clips that pass through the codec (copies).

Dimension key: N sounds, M training clips, D dimensions, F bands, T frames, S samples.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from impact_pl.spectrogram import LogMel

POOLED = 4  # mel bins per band, and 10 ms per frame: 16 bands, 25 frames per second
FLOOR = 1e-3  # -60 dB: everything below is silence
CHUNK = 16  # sounds that are compared with all clips at once
Found = tuple[np.ndarray, np.ndarray]  # similarity to the nearest training clip (N,), and its index (N,)

ALIKE = 0.9  # correlation of envelopes below which nothing is a copy
HELD_OUT_QUANTILE = 0.95
FEWEST_HELD_OUT = 5
COPIED_SHARE = 0.15  # of the generated sounds; among held-out ones, 0.05 exceed their own quantile


@lru_cache(maxsize=1)
def _log_mel() -> LogMel:
    return LogMel()


@torch.no_grad()
def envelope(waveform: Tensor) -> Tensor:
    """Compute the spectral envelope (F, T) of a waveform (S,) at 16 kHz.

    It is the log-mel level without each band's mean, with norm 1 (0 for a steady sound).
    """
    log_mel = _log_mel()
    floor = (FLOOR * log_mel.window.square().sum().sqrt() * log_mel.filters.sum(dim=1)).log()  # of noise at -60 dB
    level = torch.maximum(log_mel(waveform.float()[None])[0], floor[:, None])
    pooled = torch.nn.functional.avg_pool2d(level[None], POOLED)[0]
    centred = pooled - pooled.mean(dim=1, keepdim=True)
    return centred / centred.norm().clamp(min=1e-2)


def nearest_envelopes(envelopes: Tensor, training: Tensor) -> Found:
    """Find the training clip (M, F, T) with the largest correlation for each of the envelopes (N, F, T)."""
    best = correlations(envelopes, training).max(dim=1)
    return best.values.numpy(), best.indices.numpy()


@torch.no_grad()
def correlations(envelopes: Tensor, training: Tensor) -> Tensor:
    """Correlate envelopes (N, F, T) with those of training clips (M, F, T).

    Returns:
        The largest correlation over all shifts in time (N, M). Shifts are tried both into silence and
        around the clip's end, as ``data.random_shift`` does in training.
    """
    frames = envelopes.shape[2]
    beyond, around = (_best_shift(envelopes, training, length) for length in (2 * frames, frames))
    return torch.maximum(beyond, around)


def _best_shift(envelopes: Tensor, training: Tensor, length: int) -> Tensor:
    """Correlate over circular shifts of ``length`` frames; with twice as many as there are, none wraps around."""
    clips = torch.fft.rfft(training, length).permute(2, 1, 0).conj_physical().contiguous()  # (frequencies, F, M)
    best = []
    for sounds in envelopes.split(CHUNK):
        spectra = torch.fft.rfft(sounds, length).permute(2, 0, 1).contiguous()  # (frequencies, N', F)
        best.append(torch.fft.irfft(spectra @ clips, length, dim=0).amax(dim=0))  # over shifts: (N', M)
    return torch.cat(best)


def nearest_embeddings(embeddings: np.ndarray, training: np.ndarray) -> Found:
    """Find the training clip (M, D) with the largest cosine for each of the embeddings (N, D)."""
    sounds, clips = (
        each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12) for each in (embeddings, training)
    )
    cosines = sounds @ clips.T  # (N, M)
    return cosines.max(axis=1), cosines.argmax(axis=1)


@dataclass(frozen=True)
class CopyVerdict:
    """Result of the copy test. ``copies`` is None if it cannot tell."""

    copies: bool | None
    share: float  # of the generated sounds that are closer to a training clip than held-out recordings are
    threshold: float  # the correlation that counts as closer
    words: str


def judge_copies(generated: np.ndarray, held_out: np.ndarray, replayed: np.ndarray) -> CopyVerdict:
    """Decide from correlations with the nearest training clip whether a model copies.

    A generated sound counts as copied if it is closer to a training clip than 95 % of the held-out recordings are, and
    its correlation is at least ``ALIKE``. The model copies if this holds for more than ``COPIED_SHARE`` of its sounds.

    Args:
        generated: Correlations of the generated sounds (N,).
        held_out: Correlations of recordings that were not trained on.
        replayed: Correlations of training clips that passed through the codec: what copies look like.
    """
    if len(held_out) < FEWEST_HELD_OUT:
        words = f"cannot tell: {len(held_out)} held-out recordings, at least {FEWEST_HELD_OUT} are needed to compare"
        return CopyVerdict(None, float("nan"), float("nan"), words)
    usual = float(np.quantile(held_out, HELD_OUT_QUANTILE))
    threshold, copy = max(usual, ALIKE), float(np.quantile(replayed, 0.1))
    share = float((generated > threshold).mean())
    if usual >= copy:
        words = (
            f"cannot tell: held-out recordings are as close to training clips ({usual:.2f}) as copies are ({copy:.2f})"
        )
        return CopyVerdict(None, share, threshold, words)
    copies = share > COPIED_SHARE
    count = f"{round(share * len(generated))} of {len(generated)} sounds"
    words = f"{'copies' if copies else 'no copying found'}: {count} are closer to a training clip than {threshold:.2f}"
    return CopyVerdict(copies, share, threshold, words)
