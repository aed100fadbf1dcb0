"""Put a drawn sound back into a recording: channel balance, level and cross-fades.

Dimension key: S samples, C channels, T frames of the model's grid.
"""

import math

import numpy as np
import torch
from torch import Tensor

from impact_pl.audio import SILENT_DB

MAX_GAIN_DB = 12.0  # of the level match
SMOOTHED_FRAMES = 5  # over which the levels are compared
SILENT = 10 ** (SILENT_DB / 20)


def channel_gains(context: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Compute the gains (C,) that give a mono sound the balance of a context (S, C), heard where ``known`` (S,)."""
    heard = context[known]
    mono = _rms(heard.mean(axis=1)) if len(heard) else 0.0
    if mono < SILENT:
        return np.ones(context.shape[1])
    return np.array([_rms(channel) / mono for channel in heard.T])


def level_gains(original: Tensor, decoded: Tensor, known: Tensor) -> np.ndarray:
    """Compute gains (T,) that bring the decoded sound to the level of the original where it is known.

    In between they are interpolated, in decibels.

    Args:
        original: (T, samples per frame), read where it is known.
        decoded: The same for the codec's rendition.
        known: (T,) bool.
    """
    heard, kernel = known.float()[None, None], torch.ones(1, 1, SMOOTHED_FRAMES)
    powers = [x.square().mean(dim=1)[None, None] * heard for x in (original, decoded)]
    smooth = [torch.conv1d(x, kernel, padding=SMOOTHED_FRAMES // 2)[0, 0] for x in (*powers, heard)]
    wanted, found = (x / smooth[2].clamp(min=1) for x in smooth[:2])  # mean powers (T,)
    usable = known & (wanted > SILENT**2) & (found > SILENT**2)
    if not usable.any():
        return np.ones(len(known))
    decibels = (10 * (wanted / found.clamp(min=SILENT**2)).log10()).clamp(-MAX_GAIN_DB, MAX_GAIN_DB)
    frames = np.arange(len(known))
    there = usable.numpy()
    return 10 ** (np.interp(frames, frames[there], decibels.numpy()[there]) / 20)


def crossfade(old: np.ndarray, new: np.ndarray, fade_in: int, fade_out: int) -> np.ndarray:
    """Replace ``old`` (S, C) by ``new`` (S, C), with equal power over the first and the last samples."""
    weight = np.ones(len(new))
    weight[:fade_in] = np.arange(1, fade_in + 1) / (fade_in + 1)
    if fade_out:
        weight[-fade_out:] = np.minimum(weight[-fade_out:], np.arange(fade_out, 0, -1) / (fade_out + 1))
    angle = weight[:, None] * (math.pi / 2)
    return old * np.cos(angle) + new * np.sin(angle)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0
