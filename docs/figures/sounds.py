"""Generate and edit the sounds of the documentation with the shipped model, and draw their log-mel spectrograms.

usage: python docs/figures/sounds.py        # writes docs/assets/*.flac, sounds.png and edits.png

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


def draw(sounds: dict[str, torch.Tensor], sample_rate: int, file: Path) -> None:
    """Draw the spectrogram of each waveform (S,) under its title, next to each other, as wide as it is long."""
    log_mel = LogMel(sample_rate, f_max=sample_rate / 2)
    lengths = [len(waveform) for waveform in sounds.values()]
    figure, axes = plt.subplots(1, len(sounds), figsize=(12, 2.6), layout="constrained", width_ratios=lengths)
    for axis, (title, waveform) in zip(axes, sounds.items(), strict=True):
        mel = log_mel(waveform[None])[0].numpy()  # (F, M), natural log of the magnitude
        seconds = waveform.shape[0] / sample_rate
        axis.imshow(mel, origin="lower", aspect="auto", cmap="magma", vmin=-9, vmax=2, extent=(0, seconds, 0, 1))
        axis.set(title=title, xlabel="seconds", yticks=[])
    axes[0].set_ylabel("mel, 0 to 8 kHz")
    figure.savefig(file, dpi=110)


def generate(pipeline: ImpactPipeline) -> None:
    sounds = pipeline(CAPTIONS, seed=SEED)
    for caption, waveform in zip(CAPTIONS, sounds.waveforms, strict=True):
        save_audio(ASSETS / f"{caption.replace(' ', '_')}.flac", waveform, sounds.sample_rate)
    titles = [f"“{caption}”" for caption in CAPTIONS]
    draw(dict(zip(titles, sounds.waveforms, strict=True)), sounds.sample_rate, ASSETS / "sounds.png")


def edit(pipeline: ImpactPipeline) -> None:
    """Edit one sound in four ways (docs/editing.md)."""
    fire = pipeline("a fire crackles", duration=4, seed=SEED)
    edits = {
        "replaced": pipeline.edit(fire, "a dog barks", regions=[(1.2, 2.4)], seed=SEED),
        "extended": pipeline.extend(fire, "a fire crackles", seconds=2, seed=SEED),
        "varied": pipeline.vary(fire, "a fire crackles", share=0.3, seed=SEED),
        "loop": pipeline.loop(fire, "a fire crackles", seam=1, seed=SEED),
    }
    waveforms = {"before": fire.waveforms[0]} | {name: sound.waveform[0] for name, sound in edits.items()}
    for name, waveform in waveforms.items():
        save_audio(ASSETS / f"edit_{name}.flac", waveform, fire.sample_rate)
    titles = ("before", "1.2 to 2.4 s replaced", "extended by 2 s", "30 % varied", "seam of a loop")
    draw(dict(zip(titles, waveforms.values(), strict=True)), fire.sample_rate, ASSETS / "edits.png")


def main() -> None:
    pipeline = ImpactPipeline.from_pretrained(device="cpu")
    ASSETS.mkdir(exist_ok=True)
    generate(pipeline)
    edit(pipeline)


if __name__ == "__main__":
    main()
