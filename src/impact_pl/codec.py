"""Audio codecs: waveform <-> continuous latents, behind one interface.

Dimension key: B batch, S waveform samples, C latent channels, H latent frames (time), W latent width (frequency).

Latents are *raw* here. Impact subtracts each channel's mean and divides by one scalar standard deviation, so a codec
decides how strong its channels are relative to each other.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Generator, Tensor, nn


class AudioCodec(nn.Module, ABC):
    """What Impact needs of a codec.

    Attributes:
        name: what ``load_codec`` finds it by: a known name, or the absolute path of its folder.
        identity: 16 hex digits that change whenever stored latents would; shards and models of different identities
            do not fit together.
        sample_rate: of every waveform, in Hz.
        latent_channels: C.
        latent_width: W.
        samples_per_latent: waveform samples behind one latent frame.
    """

    name: str
    identity: str
    sample_rate: int
    latent_channels: int
    latent_width: int
    samples_per_latent: int

    def latent_frames(self, num_samples: int) -> int:
        """Latent frames H that ``num_samples`` samples fill; the last one may be filled in part."""
        return -(-num_samples // self.samples_per_latent)

    @abstractmethod
    def encode(self, waveform: Tensor) -> Tensor:
        """Waveform (B, S) -> moments (B, 2C, H, W): [mean; std] of the raw latents."""

    @abstractmethod
    def decode(self, latents: Tensor, generator: Generator | None = None) -> Tensor:
        """Raw latents (B, C, H, W) -> waveform (B, H * samples_per_latent).

        ``generator`` (on the CPU) drives whatever the decoder draws; without one a fixed seed is used, so that the
        same latents give the same waveform.
        """


def load_codec(name_or_path: str, device: torch.device | str = "cpu") -> AudioCodec:
    """Load a codec for inference: ``builtin``, or a folder that holds config.json and model.safetensors.

    Raises:
        ValueError: neither a known name nor such a folder.
    """
    from impact_pl.codec_builtin import BuiltinCodec

    if name_or_path == "builtin":
        codec = BuiltinCodec.from_pretrained(Path(__file__).parent / "assets" / "codec")
    elif Path(name_or_path, "config.json").is_file():
        codec = BuiltinCodec.from_pretrained(name_or_path)
        codec.name = str(Path(name_or_path).resolve())
    else:
        raise ValueError(
            f"no codec '{name_or_path}': choose 'builtin' or the path of a folder with config.json and "
            "model.safetensors (impact-train experiment=codec writes one)"
        )
    return codec.to(device).eval()
