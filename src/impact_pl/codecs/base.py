"""Audio codecs: waveform <-> continuous latents, the interface of a codec.

Dimension key: B batch, S waveform samples, C latent channels, H latent frames (time), W latent width (frequency).

Latents are *raw* here. Impact subtracts each channel's mean and divides by one scalar standard deviation, so a codec
decides how strong its channels are relative to each other.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from impact_pl.randomness import Generators


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
    def decode(self, latents: Tensor, generator: Generators | None = None) -> Tensor:
        """Raw latents (B, C, H, W) -> waveform (B, H * samples_per_latent).

        ``generator`` (on the CPU, of the batch or one per clip) drives whatever the decoder draws; without one a fixed
        seed is used, so that the same latents give the same waveform.
        """
