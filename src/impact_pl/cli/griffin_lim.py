"""The control of the codec table: what a codec's mel spectrogram gives without a learned decoder.

Dimension key: B batch, C latent channels, H latent frames, F mel bins, K STFT bins, M frames.
"""

from collections.abc import Callable

import torch
import torchaudio.functional
from torch import Generator, Tensor

from impact_pl.codec_builtin import BuiltinCodec


def griffin_lim(codec: BuiltinCodec) -> Callable[[Tensor, Generator], Tensor]:
    """A ``decode`` for the codec's latents: 60 iterations, momentum 0.99, on the mel spectrogram that they hold."""
    n_fft, hop, filters = codec.spec.n_fft, codec.spec.hop, codec.log_mel.filters  # (F, K)

    def decode(latents: Tensor, generator: Generator) -> Tensor:
        mel = (codec.excess_level(codec.decode_mel(latents)) + codec.unit_noise_mel[:, None]).exp()  # (1, F, M)
        magnitude = filters.T @ (mel / filters.sum(dim=1)[:, None]) + 1e-8  # (1, K, M)
        for _ in range(100):  # non-negative least squares by multiplicative updates
            magnitude = magnitude * (filters.T @ mel) / (filters.T @ (filters @ magnitude)).clamp(min=1e-12)
        torch.manual_seed(0)  # Griffin-Lim's own first phases
        waveform = torchaudio.functional.griffinlim(
            magnitude, codec.log_mel.window, n_fft, hop, n_fft, 1.0, 60, 0.99, (mel.shape[-1] - 1) * hop, True
        )
        # Its frames are centred on multiples of the hop, the log-mel's half a hop later.
        return torch.nn.functional.pad(waveform, (hop // 2, hop // 2))

    return decode
