"""Picture of a sound, whose width is its duration: waveform and spectrogram, with a region marked."""

from functools import lru_cache
from itertools import pairwise

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw

from impact_pl.audio import fit_length
from impact_pl.spectrogram import LogMel

WIDTH, WAVE, SPECTROGRAM = 1200, 120, 180  # pixels
BACKGROUND, LINE, MARK = (24, 24, 34), (129, 140, 248), (250, 204, 21)
TOP_DB, RANGE_DB = 10.0, 80.0


def draw_sound(waveform: torch.Tensor, sample_rate: int) -> np.ndarray:
    """Draw a waveform (S,) and its log-mel spectrogram as pixels (WAVE + SPECTROGRAM, WIDTH, 3)."""
    return np.concatenate([_draw_wave(waveform.numpy()), _draw_spectrogram(waveform, sample_rate)])


def mark_region(pixels: np.ndarray, seconds: float, start: float, end: float) -> Image.Image:
    """Shade what is outside of the region, draw its edges, and write a scale of seconds."""
    width = pixels.shape[1]
    first, last = (min(max(round(time / seconds * width), 0), width) for time in (start, end))
    shaded = pixels.copy()
    if first < last:
        for part in (shaded[:, :first], shaded[:, last:]):
            part[:] = part // 5 * 2
    image = Image.fromarray(shaded)
    draw = ImageDraw.Draw(image)
    if first < last:
        for edge in (first, last):
            draw.line([(min(edge, width - 2), 0), (min(edge, width - 2), image.height)], fill=MARK, width=3)
    step = next((step for step in (0.5, 1, 2, 5, 10) if seconds / step <= 12), 60)
    for number in range(1, int(seconds / step) + 1):
        position = number * step / seconds * width
        draw.line([(position, image.height - 10), (position, image.height)], fill="white", width=2)
        if position < width - 60:
            draw.text((position + 6, image.height - 28), f"{number * step:g} s", fill="white", font_size=22)
    return image


def _draw_wave(samples: np.ndarray) -> np.ndarray:
    edges = np.linspace(0, len(samples), WIDTH + 1).astype(int)
    columns = [samples[a : max(b, a + 1)] for a, b in pairwise(edges)]
    low = np.array([column.min(initial=0) for column in columns])
    high = np.array([column.max(initial=0) for column in columns])
    rows = np.linspace(1, -1, WAVE)[:, None]  # amplitude per row
    half = 1.5 / WAVE  # a thin line in silence
    inside = (rows >= low - half) & (rows <= high + half)
    return np.where(inside[..., None], LINE, BACKGROUND).astype(np.uint8)


def _draw_spectrogram(waveform: torch.Tensor, sample_rate: int) -> np.ndarray:
    log_mel = _log_mel(sample_rate)
    longer = fit_length(waveform, max(log_mel.n_fft, len(waveform)))
    with torch.no_grad():
        mel = log_mel(longer[None])[0].numpy()  # (F, M)
    mel = mel[:, : max(1, round(mel.shape[1] * len(waveform) / len(longer)))]
    decibels = mel * 20 / np.log(10)
    shades = np.clip((decibels - TOP_DB + RANGE_DB) / RANGE_DB, 0, 1)[::-1]
    colours = (matplotlib.colormaps["magma"](shades)[..., :3] * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(colours).resize((WIDTH, SPECTROGRAM), Image.Resampling.BILINEAR))


@lru_cache(maxsize=4)
def _log_mel(sample_rate: int) -> LogMel:
    return LogMel(sample_rate, f_max=sample_rate / 2)
