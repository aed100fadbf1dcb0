"""Log-mel spectrograms, and their pictures.

Dimension key: B batch, S waveform samples, F mel bins, M mel frames.
"""

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from impact_pl._torchaudio import torchaudio
from impact_pl.audio import SAMPLE_RATE, fit_length
from impact_pl.errors import UserError


class LogMel(nn.Module):
    """Natural log of the magnitude mel spectrogram, with AudioLDM's parameters: M = S / hop frames, clamped at 1e-5.

    It uses the Slaney mel scale and norm, a Hann window, and HiFi-GAN's reflect padding of (n_fft - hop) / 2 on both
    sides. AudioLDM's own (``codecs.audioldm.AudioLDMMel``) pads n_fft / 2.
    """

    filters: Tensor  # (F, n_fft/2 + 1)
    window: Tensor  # (n_fft,)

    def __init__(
        self,
        sample_rate: int = SAMPLE_RATE,
        num_mels: int = 64,
        n_fft: int = 1024,
        hop: int = 160,
        f_min: float = 0.0,
        f_max: float = 8000.0,
    ) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop = hop
        filters = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, f_min, f_max, num_mels, sample_rate, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the log-mel (B, F, M) of a waveform (B, S)."""
        return self.from_spectrum(self.spectrum(waveform))

    def spectrum(self, waveform: Tensor) -> Tensor:
        """Compute the complex STFT (B, n_fft/2 + 1, M) of a waveform (B, S)."""
        pad = (self.n_fft - self.hop) // 2
        if waveform.shape[-1] <= pad:
            raise UserError(f"waveform of {waveform.shape[-1]} samples is too short: log-mel needs more than {pad}")
        padded = nn.functional.pad(waveform, (pad, pad), mode="reflect")
        return torch.stft(padded, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)

    def from_spectrum(self, spectrum: Tensor) -> Tensor:
        """Compute the log-mel (B, F, M) from an STFT (B, n_fft/2 + 1, M)."""
        return (self.filters @ spectrum.abs()).clamp(min=1e-5).log()  # (B, F, M)


def spectrogram_png(
    waveform: Tensor, sample_rate: int, path_or_buffer: str | Path | io.BytesIO, title: str = ""
) -> None:
    """Draw the log-mel spectrogram of a waveform (S,) as a PNG, in decibels over seconds and mel bins."""
    from matplotlib.figure import Figure

    log_mel = LogMel(sample_rate, f_max=sample_rate / 2)
    shortest = log_mel.n_fft
    with torch.no_grad():
        mel = log_mel(fit_length(waveform, max(shortest, waveform.shape[-1])).float().cpu()[None])[0]  # (F, M)
    decibels = mel * (20 / torch.log(torch.tensor(10.0)))
    figure = Figure(figsize=(6.0, 2.4), dpi=100, layout="constrained")
    axes = figure.subplots()
    seconds = mel.shape[1] * log_mel.hop / sample_rate
    extent = (0.0, seconds, 0.0, float(mel.shape[0]))
    image = axes.imshow(
        decibels.numpy(), origin="lower", aspect="auto", extent=extent, vmin=-80.0, vmax=20.0, cmap="magma"
    )
    axes.set(xlabel="time (s)", ylabel="mel bin")
    axes.set_title(title, parse_math=False)  # captions may contain a $
    figure.colorbar(image, ax=axes, label="dB")
    figure.savefig(path_or_buffer, format="png")
