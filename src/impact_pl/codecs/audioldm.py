"""AudioLDM's codec: its VAE over log-mel spectrograms (diffusers) and a vocoder (``codecs.vocoders``).

The codec is read from a folder in the layout of diffusers' AudioLDM pipelines (``cvssp/audioldm-...`` on the hub):
``vae/`` and, for HiFi-GAN, ``vocoder/``. The published VAE encodes 10.24 s (1024 mel frames of 64 bins) into 256 x 16
latents of 8 channels, which IMPACT generates in patches of 4 x 4 (256 patches of 128 numbers).

Dimension key: B batch, S samples, M mel frames (100 per second), F mel bins, C latent channels, H latent frames, W
latent width.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from impact_pl._torchaudio import torchaudio
from impact_pl.audio import fit_length
from impact_pl.checkpoint_io import load_frozen, weight_files
from impact_pl.codecs.base import AudioCodec, Decode
from impact_pl.codecs.vocoders import HIFIGAN, HOP, N_FFT, NUM_MELS, SAMPLE_RATE, Vocoder, check, load_vocoder
from impact_pl.errors import UserError
from impact_pl.hub import model_folder
from impact_pl.identity import files_identity
from impact_pl.randomness import Generators, PositionalNoise
from impact_pl.registry import full_name

F_MAX, LEAST = 8000.0, 1e-5
VAE_CONTEXT = 20  # latent frames on each side that its decoder's convolutions see; attention and norms see everything


class AudioLDMMel(nn.Module):
    """AudioLDM's log-mel spectrogram (haoheliu/AudioLDM, audio/stft.py, TacotronSTFT): M = S / hop frames.

    It uses magnitudes of a Hann-windowed STFT, centred by reflecting half a window on both sides; Slaney mel filters of
    unit area from 0 to 8000 Hz; and the natural log, clamped at 1e-5. The frame centred at the end of the sound is
    dropped, as the original cuts the 1025 frames of 10.24 s to 1024.

    Note:
        The original's file loader also subtracts a clip's mean and scales its peak to 0.5. Here sounds keep their
        level, because otherwise no decoded sound could be compared with its original.
    """

    filters: Tensor  # (F, n_fft/2 + 1)
    window: Tensor  # (n_fft,)

    def __init__(self) -> None:
        super().__init__()
        filters = torchaudio.functional.melscale_fbanks(
            N_FFT // 2 + 1, 0.0, F_MAX, NUM_MELS, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the log-mel (B, M, F) of a waveform (B, S); S is a multiple of the hop and above 512."""
        spectrum = torch.stft(
            waveform, N_FFT, HOP, window=self.window, center=True, pad_mode="reflect", return_complex=True
        )
        mel = (self.filters @ spectrum.abs()).clamp(min=LEAST).log()  # (B, F, M + 1)
        return mel[..., :-1].transpose(1, 2)


class AudioLDMCodec(AudioCodec):
    """AudioLDM's VAE and a vocoder as a codec. ``scaling_factor`` is not applied; Impact's whitening takes its place.

    ``identity`` covers everything that determines the latents (mel front end and VAE) but not the vocoder, so that
    stored latents remain valid with another vocoder.

    Args:
        source: A folder with ``vae/`` and, for HiFi-GAN, ``vocoder/``, or ``hub:ID`` for such a repository.
        vocoder: See ``vocoders.load_vocoder``; HiFi-GAN by default.

    Raises:
        UserError: diffusers is not installed, a file is missing, or the parts are not made for 16 kHz and 64 mel bins.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, source: str, vocoder: str = HIFIGAN) -> None:
        super().__init__()
        try:
            from diffusers import AutoencoderKL
        except ImportError as error:
            raise UserError(
                f"codec 'audioldm:{source}' needs diffusers ({error}): pip install 'impact-pl[audioldm]'"
            ) from error

        parts = ("vae/", "vocoder/") if vocoder == HIFIGAN else ("vae/",)
        folder = model_folder(source, [f"{part}config.json" for part in parts], parts)
        self.name = full_name("audioldm", source)
        self.vae = load_frozen(AutoencoderKL, folder / "vae", low_cpu_mem_usage=False)  # True would need accelerate
        check(f"{source}: vae/config.json", {"in_channels": (self.vae.config.in_channels, 1)})
        self.vocoder = load_vocoder(vocoder, folder)
        self.mel = AudioLDMMel()
        self._reduced: dict[torch.dtype, Decode] = {}  # decoders on a copy of the weights
        shrink = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.latent_channels = self.vae.config.latent_channels
        self.latent_width = NUM_MELS // shrink
        self.samples_per_latent = HOP * shrink
        self.decode_context = VAE_CONTEXT + -(-(self.vocoder.context or 0) // shrink)
        salt = f"audioldm {SAMPLE_RATE} {NUM_MELS} {N_FFT} {HOP} {F_MAX} {LEAST}"
        self.identity = files_identity(salt, [folder / "vae" / "config.json", *weight_files(folder / "vae")])

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """Encode a waveform (B, S) into moments (B, 2C, H, W). An incomplete last frame is padded with silence."""
        waveform = fit_length(waveform, self.latent_frames(waveform.shape[-1]) * self.samples_per_latent)
        posterior = self.vae.encode(self.mel(waveform)[:, None]).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1)

    @torch.no_grad()
    def decode(self, latents: Tensor, generator: Generators | PositionalNoise | None = None) -> Tensor:
        """Decode raw latents (B, C, H, W) into a waveform (B, S). Only the fast vocoder uses ``generator``."""
        mel = self.vae.decode(latents).sample[:, 0]  # (B, M, F)
        return self.vocoder(mel, generator)

    def decode_stream(self, chunks: Iterable[Tensor], noise: PositionalNoise) -> Iterator[Tensor]:
        if self.vocoder.context is None:
            raise UserError("Griffin-Lim needs a whole sound, not a stream: choose vocoder fast or hifigan")
        return super().decode_stream(chunks, noise)

    def decoder_in(self, dtype: torch.dtype) -> Decode:
        """Return ``decode``, or for another dtype than float32 a decoder on a copy of the weights in it.

        In bf16 it takes 0.5 of the time on a CPU with bf16 instructions. The vocoder ``fast`` remains in float32.
        """
        if dtype == torch.float32:
            return self.decode
        if dtype not in self._reduced:
            self._reduced[dtype] = reduced_decoder(self.vae, self.vocoder, dtype)
        return self._reduced[dtype]

    def _apply(self, *args: Any, **kwargs: Any) -> "AudioLDMCodec":
        """Drop the copies when the weights move to another device."""
        self._reduced.clear()
        return super()._apply(*args, **kwargs)


def reduced_decoder(vae: Any, vocoder: Vocoder, dtype: torch.dtype) -> Decode:
    """Build a function from raw latents (B, C, H, W) to waveforms (B, S) that computes in ``dtype`` from end to end.

    The VAE's convolutions are in channels_last, so that oneDNN and cuDNN do not reorder activations between them.
    """
    before = vae.post_quant_conv or nn.Identity()
    mel_decoder = copy.deepcopy(nn.Sequential(before, vae.decoder)).to(dtype)
    mel_decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    vocoder = vocoder.reduced(dtype)

    @torch.no_grad()
    def decode(latents: Tensor, generator: Generators | PositionalNoise | None = None) -> Tensor:
        mel = mel_decoder(latents.to(dtype, memory_format=torch.channels_last))[:, 0]  # (B, M, F)
        return vocoder(mel, generator)

    return decode
