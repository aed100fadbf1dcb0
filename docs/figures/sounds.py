"""Generate the sounds of the README with the shipped model, and draw their log-mel spectrograms.

usage: python docs/figures/sounds.py        # writes docs/assets/*.flac and docs/assets/sounds.png

The captions are three that the model is good at (docs say which it is not); the seed is 1 for all, not searched for.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from impact_pl import ImpactPipeline
from impact_pl.audio import save_audio
from impact_pl.spectrogram import LogMel

ASSETS = Path(__file__).parents[1] / "assets"
CAPTIONS = ("a rooster crows", "a dog barks", "a fire crackles")
SEED = 1


def draw(waveforms: torch.Tensor, sample_rate: int, file: Path) -> None:
    """Draw one spectrogram per caption of waveforms (B, S), next to each other."""
    log_mel = LogMel(sample_rate, f_max=sample_rate / 2)
    figure, axes = plt.subplots(1, len(waveforms), figsize=(12, 2.6), layout="constrained")
    for axis, waveform, caption in zip(axes, waveforms, CAPTIONS, strict=True):
        mel = log_mel(waveform[None])[0].numpy()  # (F, M), natural log of the magnitude
        seconds = waveform.shape[0] / sample_rate
        axis.imshow(mel, origin="lower", aspect="auto", cmap="magma", vmin=-9, vmax=2, extent=(0, seconds, 0, 1))
        axis.set(title=f"“{caption}”", xlabel="seconds", yticks=[])
    axes[0].set_ylabel("mel, 0 to 8 kHz")
    figure.savefig(file, dpi=110)


def main() -> None:
    sounds = ImpactPipeline.from_pretrained(device="cpu")(CAPTIONS, seed=SEED)
    ASSETS.mkdir(exist_ok=True)
    for caption, waveform in zip(CAPTIONS, sounds.waveforms, strict=True):
        save_audio(ASSETS / f"{caption.replace(' ', '_')}.flac", waveform, sounds.sample_rate)
    draw(sounds.waveforms, sounds.sample_rate, ASSETS / "sounds.png")


if __name__ == "__main__":
    main()
