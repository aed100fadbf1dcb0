"""The built-in codec's decoder network: a log-mel spectrogram to one of the waveforms that have it.

Dimension key: B batch, S samples, M mel frames (100 per second), F mel bins, K STFT bins.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from impact_pl.randomness import Generators, PositionalNoise, draw_normal, draw_uniform

NUM_OUTPUTS = 5  # per bin and frame: noise log gain; complex gain of sinusoids; complex gain of pulses
PHASE_SPREAD = 1e3  # standard deviation of positional phases: modulo 2 pi they are uniform
NUM_NOISE_CHANNELS = 16  # random inputs, so that neighbouring bins can share what is sampled (onsets, pitch)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time and an MLP, with a learned scale on the residual."""

    def __init__(self, dim: int, kernel_size: int = 7):
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: (B, T, D) -> (B, T, D)."""
        residual = x
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return residual + self.scale * self.fc2(F.gelu(self.fc1(self.norm(x))))


class NoiseExcitedDecoder(nn.Module):
    """Decoder from log-mel frames to a waveform. The network runs on pairs of frames (50 per second)."""

    window: Tensor  # (n_fft,)
    interpolation: Tensor  # (K, F)

    def __init__(self, num_mels: int, hop: int, sample_rate: int, dim: int, depth: int, n_fft: int = 512):
        super().__init__()
        self.hop, self.n_fft, self.num_bins = hop, n_fft, n_fft // 2 + 1
        self.proj_in = nn.Linear(2 * num_mels + NUM_NOISE_CHANNELS, dim)
        self.blocks = nn.ModuleList(ConvNeXtBlock(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.proj_out = nn.Linear(dim, 2 * NUM_OUTPUTS * self.num_bins)
        nn.init.normal_(self.proj_out.weight, std=1e-3)
        nn.init.zeros_(self.proj_out.bias)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        interpolation = mel_interpolation(num_mels, self.num_bins, sample_rate)
        self.register_buffer("interpolation", interpolation, persistent=False)

    def forward(self, mel: Tensor, level: Tensor, generator: Generators | PositionalNoise) -> Tensor:
        """Decode a log-mel (B, F, M) and its ``level`` (B, F, M) relative to unit white noise: waveform (B, hop * M).

        M must be even. ``generator`` drives the excitations.
        """
        batch, _, num_frames = mel.shape
        first = generator.start // self.hop if isinstance(generator, PositionalNoise) else 0
        noise, phases, inputs = self._draw(batch, first, num_frames, generator, mel.device)
        gains = self.gains(mel, inputs)  # 5 x (B, M, K)
        with torch.autocast(mel.device.type, enabled=False):
            envelope = (self.interpolation @ level.float()).transpose(1, 2).exp()  # (B, M, K)
            spectrum = gains[0].clamp(-8, 4).exp() * self._noise_spectrum(noise)
            spectrum = spectrum + torch.complex(gains[1], gains[2]) * self._sinusoids(phases, first, num_frames)
            spectrum = spectrum + torch.complex(gains[3], gains[4]) * self._pulses()
            return inverse_stft(envelope * spectrum, self.window, self.hop)

    def gains(self, mel: Tensor, inputs: Tensor) -> Tensor:
        """Run the network on a log-mel (B, F, M) and random ``inputs`` (B, M/2, channels): NUM_OUTPUTS x (B, M, K)."""
        x = rearrange(0.3 * mel + 1, "b f (t two) -> b t (two f)", two=2)
        x = self.proj_in(torch.cat([x, inputs], dim=-1))  # (B, M/2, D)
        for block in self.blocks:
            x = block(x)
        x = self.proj_out(self.norm(x)).float()
        return rearrange(x, "b t (two n k) -> n b (t two) k", two=2, n=NUM_OUTPUTS)

    def _draw(
        self, batch: int, first: int, num_frames: int, generator: Generators | PositionalNoise, device: torch.device
    ) -> tuple[Tensor, ...]:
        """Draw white noise (B, samples), phases (B, K) and the network's random inputs (B, M/2, channels)."""
        num_samples = (num_frames - 1) * self.hop + self.n_fft
        if isinstance(generator, PositionalNoise):
            noise = generator.normal("noise", first * self.hop, num_samples)[..., 0]
            phases = generator.normal("phases", 0, 1, self.num_bins)[:, 0] * PHASE_SPREAD
            inputs = generator.normal("inputs", first // 2, num_frames // 2, NUM_NOISE_CHANNELS)
            return noise.to(device), phases.to(device), inputs.to(device)
        noise = draw_normal((batch, num_samples), generator, device)
        phases = 2 * math.pi * draw_uniform((batch, self.num_bins), generator, device)
        inputs = draw_normal((batch, num_frames // 2, NUM_NOISE_CHANNELS), generator, device)
        return noise, phases, inputs

    def _noise_spectrum(self, noise: Tensor) -> Tensor:
        """Compute the STFT (B, M, K) of white noise."""
        return torch.fft.rfft(noise.unfold(-1, self.n_fft, self.hop) * self.window)

    def _sinusoids(self, phases: Tensor, first: int, num_frames: int) -> Tensor:
        """Compute the STFT (B, M, K) of one sinusoid per bin centre, as strong as the noise, from frame ``first`` on.

        At frame 0 they have ``phases``.
        """
        bins = torch.arange(self.num_bins, device=phases.device)
        frames = torch.arange(first, first + num_frames, device=phases.device)[:, None]
        clock = 2 * math.pi * ((frames * self.hop * bins) % self.n_fft) / self.n_fft  # (M, K)
        angle = phases[:, None] + clock
        return torch.polar(self._noise_level().expand_as(angle), angle)

    def _pulses(self) -> Tensor:
        """Compute the spectrum (K,) of a pulse in the middle of the window, as strong as the noise."""
        signs = 1 - 2 * (torch.arange(self.num_bins, device=self.window.device) % 2)
        return (signs * self._noise_level()).to(torch.complex64)

    def _noise_level(self) -> Tensor:
        return self.window.square().sum().sqrt()


def inverse_stft(spectrum: Tensor, window: Tensor, hop: int) -> Tensor:
    """Invert the STFT: (B, M, K) -> (B, hop * M). Frame m is centred on sample (m + 1/2) hop, like the log-mel's."""
    n_fft, num_frames = len(window), spectrum.shape[1]
    frames = torch.fft.irfft(spectrum, n_fft) * window  # (B, M, n_fft)
    pad, length = (n_fft - hop) // 2, (num_frames - 1) * hop + n_fft
    weight = window.square().expand(1, num_frames, -1)
    total, weight = (
        F.fold(x.transpose(1, 2), (1, length), (1, n_fft), stride=(1, hop)).flatten(1) for x in (frames, weight)
    )
    return (total / weight.clamp(min=1e-3))[:, pad : length - pad]


def mel_interpolation(num_mels: int, num_bins: int, sample_rate: int) -> Tensor:
    """Compute weights (K, F) that interpolate a curve from the centres of Slaney's mel bins to the STFT bins."""
    break_hz, break_mel, log_step = 1000.0, 15.0, math.log(6.4) / 27  # slaney: linear to 1 kHz, then logarithmic
    top = break_mel + math.log(sample_rate / 2 / break_hz) / log_step
    mels = torch.linspace(0, top, num_mels + 2, dtype=torch.float64)[1:-1]
    centres = torch.where(mels < break_mel, mels * 200 / 3, break_hz * ((mels - break_mel) * log_step).exp())
    frequencies = torch.linspace(0, sample_rate / 2, num_bins, dtype=torch.float64).clamp(centres[0], centres[-1])
    right = torch.searchsorted(centres, frequencies).clamp(1, num_mels - 1)
    share = (frequencies - centres[right - 1]) / (centres[right] - centres[right - 1])
    weights = torch.zeros(num_bins, num_mels, dtype=torch.float64)
    rows = torch.arange(num_bins)
    weights[rows, right - 1] = 1 - share
    weights[rows, right] = share
    return weights.float()
