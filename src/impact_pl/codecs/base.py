"""The codec interface: audio codecs map waveforms to continuous latents and back.

Latents are *raw* here. Impact subtracts each channel's mean and divides by one scalar standard deviation, so a codec
decides the relative scale of its channels.

Dimension key: B batch, S waveform samples, C latent channels, H latent frames (time), W latent width (frequency).
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from impact_pl.randomness import Generators, PositionalNoise

Decode = Callable[[Tensor, Generators | PositionalNoise | None], Tensor]  # as AudioCodec.decode


class AudioCodec(nn.Module, ABC):
    """Interface of an audio codec.

    Attributes:
        name: Name that ``load_codec`` accepts: a registered name, or the absolute path of its folder.
        identity: A short string that changes whenever stored latents would, such as a hash of the weights. Shards and
            models only fit together if their identities match.
        sample_rate: Sample rate of every waveform, in Hz.
        latent_channels: C.
        latent_width: W.
        samples_per_latent: Waveform samples per latent frame.
        decode_context: Latent frames on each side that the decoding of one frame depends on.
    """

    name: str
    identity: str
    sample_rate: int
    latent_channels: int
    latent_width: int
    samples_per_latent: int
    decode_context: int

    def latent_frames(self, num_samples: int) -> int:
        """Compute the number of latent frames H for ``num_samples`` samples; the last frame may be incomplete."""
        return -(-num_samples // self.samples_per_latent)

    @abstractmethod
    def encode(self, waveform: Tensor) -> Tensor:
        """Encode a waveform (B, S) into moments (B, 2C, H, W) = [mean; std] of the raw latents."""

    @abstractmethod
    def decode(self, latents: Tensor, generator: Generators | PositionalNoise | None = None) -> Tensor:
        """Decode raw latents (B, C, H, W) into a waveform (B, H * samples_per_latent).

        ``generator`` (on the CPU, for the batch or one per clip) drives all sampling in the decoder. Without one a
        fixed seed is used, so that the same latents give the same waveform.
        """

    def decoder_in(self, dtype: torch.dtype) -> Decode:
        """Return a function like ``decode`` that may compute in ``dtype``; by default ``decode`` itself, in float32."""
        return self.decode

    def decode_stream(self, chunks: Iterable[Tensor], noise: PositionalNoise) -> Iterator[Tensor]:
        """Decode raw latents (B, C, h, W) that arrive in chunks along time into waveforms (B, s), in constant memory.

        Joined, they equal :meth:`decode` of all latents at once with the same noise, up to rounding, if a frame depends
        on ``decode_context`` frames on each side only. A frame is decoded when these are known.
        """
        size, context = self.samples_per_latent, self.decode_context
        held: Tensor | None = None
        start = done = 0  # first frame that is held, first frame that is not decoded yet
        for chunk in itertools.chain(chunks, [None]):
            parts = [x for x in (held, chunk) if x is not None]
            if not parts:
                return
            held = torch.cat(parts, dim=2)
            ready = start + held.shape[2] - (0 if chunk is None else context)
            if ready > done:
                waveform = self.decode(held, noise.at(start * size))
                yield waveform[:, (done - start) * size : (ready - start) * size]
                done, first = ready, max(start, ready - context)
                held, start = held[:, :, first - start :], first
