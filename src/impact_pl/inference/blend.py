"""Put a drawn sound back into a recording: channel balance, level and cross-fades, without PyTorch.

Dimension key: S samples, C channels, T frames of the model's grid.
"""

import math

import numpy as np

MAX_GAIN_DB = 12.0  # of the level match
SMOOTHED_FRAMES = 5  # over which the levels are compared
SILENT = 1e-3  # amplitude, audio.SILENT_DB


def channel_gains(context: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Compute the gains (C,) that give a mono sound the balance of a context (S, C), heard where ``known`` (S,)."""
    heard = context[known]
    mono = _rms(heard.mean(axis=1)) if len(heard) else 0.0
    if mono < SILENT:
        return np.ones(context.shape[1])
    return np.array([_rms(channel) / mono for channel in heard.T])


def level_gains(original: np.ndarray, decoded: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Compute gains (T,) that bring the decoded sound to the level of the original where it is known.

    In between they are interpolated, in decibels.

    Args:
        original: (T, samples per frame), read where it is known.
        decoded: The same for the codec's rendition.
        known: (T,) bool.
    """
    kernel, reach = np.ones(SMOOTHED_FRAMES), SMOOTHED_FRAMES // 2
    powers = [np.square(x, dtype=np.float64).mean(axis=1) * known for x in (original, decoded)]
    wanted, found, heard = (np.convolve(x, kernel)[reach : reach + len(known)] for x in (*powers, 1.0 * known))
    wanted, found = wanted / np.maximum(heard, 1), found / np.maximum(heard, 1)  # mean powers (T,)
    usable = known & (wanted > SILENT**2) & (found > SILENT**2)
    if not usable.any():
        return np.ones(len(known))
    decibels = np.clip(10 * np.log10(wanted[usable] / found[usable]), -MAX_GAIN_DB, MAX_GAIN_DB)
    return 10 ** (np.interp(np.arange(len(known)), np.flatnonzero(usable), decibels) / 20)


def continued(frames: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mirror the known frames (T, samples) into the others next to them.

    The codec's analysis reaches a little into its neighbours. Without this, what is to be replaced, or silence, would
    be heard at the edges of what is kept.
    """
    out = np.where(known[:, None], frames, np.float32(0))
    for frame in np.flatnonzero(~known):
        if frame > 0 and known[frame - 1]:
            out[frame] = frames[frame - 1][::-1]
        elif frame + 1 < len(known) and known[frame + 1]:
            out[frame] = frames[frame + 1][::-1]
    return out


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
