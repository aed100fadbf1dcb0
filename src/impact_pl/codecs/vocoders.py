"""Vocoders for AudioLDM's log-mel spectrogram: the HiFi-GAN of its checkpoints, our own decoder, and Griffin-Lim.

Dimension key: B batch, S samples, M mel frames (100 per second), F mel bins, K STFT bins.
"""

import copy
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from impact_pl import assets
from impact_pl._torchaudio import torchaudio
from impact_pl.checkpoint_io import load_frozen
from impact_pl.codecs.builtin import BuiltinCodec
from impact_pl.errors import UserError
from impact_pl.randomness import Generators, PositionalNoise
from impact_pl.spectrogram import LogMel

SAMPLE_RATE, NUM_MELS, N_FFT, HOP = 16_000, 64, 1024, 160
HIFIGAN, FAST, GRIFFIN_LIM = "hifigan", "fast", "griffin_lim"


class Vocoder(nn.Module, ABC):
    """Interface of a vocoder: log-mel (B, M, F), frame m centred on sample m * HOP, to a waveform (B, HOP * M).

    Attributes:
        context: Mel frames on each side that a sample depends on; None if it depends on all.
    """

    context: int | None

    @abstractmethod
    def forward(self, mel: Tensor, generator: Generators | PositionalNoise | None = None) -> Tensor:
        """Compute the waveform. ``generator`` drives all sampling; without one a fixed seed is used."""

    def reduced(self, dtype: torch.dtype) -> "Vocoder":
        """Return a vocoder that may compute in ``dtype``; by default this one, in float32."""
        return self


class HifiGan(Vocoder):
    """The vocoder of AudioLDM's checkpoints (transformers), from a folder with config.json and weights.

    Raises:
        UserError: It is not made for AudioLDM's mel at 16 kHz.
    """

    context = 48

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import SpeechT5HifiGan

        self.network = load_frozen(SpeechT5HifiGan, folder)
        config = self.network.config
        check(
            f"{folder}/config.json",
            {
                "sampling_rate": (config.sampling_rate, SAMPLE_RATE),
                "model_in_dim": (config.model_in_dim, NUM_MELS),
                "product of upsample_rates": (math.prod(config.upsample_rates), HOP),
            },
        )

    def forward(self, mel: Tensor, generator: Generators | PositionalNoise | None = None) -> Tensor:
        """Compute the waveform; nothing is sampled.

        The first upsampling gives one frame more than 5 per input frame. These 32 samples are cut off.
        """
        dtype = self.network.conv_pre.weight.dtype
        return self.network(mel.to(dtype))[:, : HOP * mel.shape[1]].float()

    def reduced(self, dtype: torch.dtype) -> Vocoder:
        return copy.deepcopy(self).to(dtype)


class FastVocoder(Vocoder):
    """The built-in codec's decoder as a vocoder. Both mel spectrograms differ only in where their frames are centred.

    Args:
        folder: A codec folder, such as ``impact train experiment=vocoder`` writes; None: the one in the package.

    Raises:
        UserError: There is no such folder, or its mel spectrogram has other parameters.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        super().__init__()
        folder = folder or Path(assets.__file__).parent / "codec"
        self.codec = BuiltinCodec.from_pretrained(folder).requires_grad_(False)
        spec = self.codec.spec
        wanted = {"sample_rate": SAMPLE_RATE, "num_mels": NUM_MELS, "n_fft": N_FFT, "hop": HOP}
        check(f"{folder}/config.json", {name: (getattr(spec, name), value) for name, value in wanted.items()})
        self.context = self.codec.decode_context * spec.frames_per_latent + 2

    def forward(self, mel: Tensor, generator: Generators | PositionalNoise | None = None) -> Tensor:
        """Compute one of the waveforms with this mel spectrogram.

        The codec's frames are centred half a hop later. Its output therefore begins half a hop early, and the last
        frame is repeated to have enough of it at the end.
        """
        num_frames, codec = mel.shape[1], self.codec
        mel = nn.functional.pad(mel.float().transpose(1, 2), (0, 2 - num_frames % 2), mode="replicate")
        mel = codec.with_floor(mel.clamp(max=codec.ceiling[:, None]))  # finite for an untrained VAE, too
        waveform = codec.vocode(mel, generator or torch.Generator().manual_seed(0))
        return waveform[:, HOP // 2 :][:, : HOP * num_frames]


class GriffinLim(Vocoder):
    """Griffin-Lim with momentum: no network. Far from a network's quality; a baseline."""

    context = None

    def __init__(self, num_iterations: int = 60) -> None:
        super().__init__()
        self.num_iterations = num_iterations
        self.log_mel = LogMel(SAMPLE_RATE, NUM_MELS, N_FFT, HOP)

    def forward(self, mel: Tensor, generator: Generators | PositionalNoise | None = None) -> Tensor:
        """Compute the waveform. The initial phases have a fixed seed, and the last frame is repeated at the end."""
        mel = nn.functional.pad(mel.float().transpose(1, 2), (0, 1), mode="replicate")
        return griffin_lim(mel, self.log_mel, self.num_iterations)


def griffin_lim(mel: Tensor, log_mel: LogMel, num_iterations: int = 60) -> Tensor:
    """Invert a log-mel (B, F, M) to a waveform (B, hop * (M - 1)), with frame m centred on sample m * hop."""
    length = (mel.shape[-1] - 1) * log_mel.hop
    mel, filters = mel.exp(), log_mel.filters  # (K, F)
    magnitude = filters.T @ (mel / filters.sum(dim=1)[:, None]) + 1e-8  # (B, K, M)
    for _ in range(100):  # non-negative least squares by multiplicative updates
        magnitude = magnitude * (filters.T @ mel) / (filters.T @ (filters @ magnitude)).clamp(min=1e-12)
    settings: Any = {"power": 1.0, "n_iter": num_iterations, "momentum": 0.99, "rand_init": True}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torchaudio.functional.griffinlim(
            magnitude, log_mel.window, log_mel.n_fft, log_mel.hop, log_mel.n_fft, length=length, **settings
        )


def load_vocoder(name: str, folder: Path) -> Vocoder:
    """Load a vocoder for AudioLDM's mel.

    Args:
        name: ``hifigan``, that of the checkpoint; ``fast``, our own; a folder that ``impact train experiment=vocoder``
            wrote; or ``griffin_lim``.
        folder: Folder of the checkpoint.

    Raises:
        UserError: There is no such vocoder.
    """
    if name == HIFIGAN:
        return HifiGan(folder / "vocoder")
    if name == GRIFFIN_LIM:
        return GriffinLim()
    if name != FAST and not Path(name, "config.json").is_file():
        raise UserError(
            f"no vocoder '{name}': choose {HIFIGAN}, {FAST}, {GRIFFIN_LIM}, or a folder with config.json and "
            "model.safetensors (impact train experiment=vocoder writes one)"
        )
    return FastVocoder(None if name == FAST else name)


def check(where: str, settings: dict[str, tuple[Any, Any]]) -> None:
    """Check settings, each (found, wanted).

    Raises:
        UserError: One differs.
    """
    for name, (found, wanted) in settings.items():
        if found != wanted:
            raise UserError(f"{where}: {name} is {found}, AudioLDM's at 16 kHz is {wanted}: give another model")
