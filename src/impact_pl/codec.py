"""Audio codecs: waveform <-> continuous latents, behind one interface.

Dimension key: B batch, S waveform samples, C latent channels, H latent frames (time), W latent width (frequency).

Latents are *raw* here. Impact subtracts each channel's mean and divides by one scalar standard deviation, so a codec
decides how strong its channels are relative to each other.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from impact_pl.parts import build_part, known_kinds

ENTRY_POINTS = "impact_pl.codecs"  # group of the entry points by which installed packages offer codecs


class AudioCodec(nn.Module, ABC):
    """What Impact needs of a codec.

    Attributes:
        name: what ``load_codec`` finds it by: a known name, or the absolute path of its folder.
        identity: a short string that changes whenever stored latents would, such as a hash of the weights; shards and
            models of different identities do not fit together.
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


def _builtin() -> AudioCodec:
    from impact_pl.codec_builtin import BuiltinCodec  # here and below: these modules need this one

    return BuiltinCodec.from_pretrained(Path(__file__).parent / "assets" / "codec")


def _audioldm(source: str) -> AudioCodec:
    from impact_pl.codec_audioldm import AudioLDMCodec

    return AudioLDMCodec(source)


CODECS: dict[str, Callable[..., AudioCodec]] = {"builtin": _builtin, "audioldm": _audioldm}


def load_codec(name_or_path: str, device: torch.device | str = "cpu") -> AudioCodec:
    """Load a codec for inference.

    Args:
        name_or_path: ``builtin``; ``audioldm:FOLDER`` or ``audioldm:hub:ID``; a folder that ``impact-train
            experiment=codec`` wrote (config.json and model.safetensors); or the name of one of your own, in ``CODECS``
            or an entry point.
        device: where it runs.

    Raises:
        ValueError: neither a known name nor such a folder, or a file or package of the codec is missing.
    """
    kinds = known_kinds(CODECS, ENTRY_POINTS)
    if name_or_path.partition(":")[0] in kinds:
        return build_part("codec", CODECS, ENTRY_POINTS, name_or_path).to(device).eval()
    if not Path(name_or_path, "config.json").is_file():
        raise ValueError(
            f"no codec '{name_or_path}': choose {', '.join(kinds)} (audioldm:FOLDER or audioldm:hub:ID), or the path "
            "of a folder with config.json and model.safetensors (impact-train experiment=codec writes one)"
        )
    from impact_pl.codec_builtin import BuiltinCodec

    codec = BuiltinCodec.from_pretrained(name_or_path)
    codec.name = str(Path(name_or_path).resolve())
    return codec.to(device).eval()
