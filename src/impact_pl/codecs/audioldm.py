"""AudioLDM's codec: its VAE over log-mel spectrograms (diffusers) and its HiFi-GAN vocoder (transformers).

The codec is read from a folder in the layout of diffusers' AudioLDM pipelines (``cvssp/audioldm-...`` on the hub):
``vae/`` and ``vocoder/``. The published VAE encodes 10.24 s (1024 mel frames of 64 bins) into 256 x 16 latents of 8
channels, which IMPACT generates in patches of 4 x 4 (256 patches of 128 numbers).

Dimension key: B batch, S samples, M mel frames (100 per second), F mel bins, C latent channels, H latent frames, W
latent width.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from impact_pl._torchaudio import torchaudio
from impact_pl.audio import fit_length
from impact_pl.checkpoint_io import load_frozen, weight_files
from impact_pl.codecs.base import AudioCodec, Decode
from impact_pl.errors import UserError
from impact_pl.hub import model_folder
from impact_pl.identity import files_identity
from impact_pl.randomness import Generators, PositionalNoise
from impact_pl.registry import full_name

SAMPLE_RATE, NUM_MELS, N_FFT, HOP, F_MAX, LEAST = 16_000, 64, 1024, 160, 8000.0, 1e-5
NEEDED = ("vae/config.json", "vocoder/config.json")


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
    """AudioLDM's VAE and vocoder as a codec. ``scaling_factor`` is not applied; Impact's whitening takes its place.

    ``identity`` covers everything that determines the latents (mel front end and VAE) but not the vocoder, so that
    stored latents remain valid with another vocoder.

    Args:
        source: A folder with ``vae/`` and ``vocoder/``, or ``hub:ID`` for such a repository.

    Raises:
        UserError: diffusers is not installed, a file is missing, or the parts are not made for 16 kHz and 64 mel bins.
    """

    sample_rate = SAMPLE_RATE
    decode_context = 32  # of the convolutions; the VAE's attention and normalisation see everything

    def __init__(self, source: str) -> None:
        super().__init__()
        try:
            from diffusers import AutoencoderKL
        except ImportError as error:
            raise UserError(
                f"codec 'audioldm:{source}' needs diffusers ({error}): pip install 'impact-pl[audioldm]'"
            ) from error
        from transformers import SpeechT5HifiGan

        folder = model_folder(source, NEEDED, parts=("vae/", "vocoder/"))
        self.name = full_name("audioldm", source)
        self.vae = load_frozen(AutoencoderKL, folder / "vae", low_cpu_mem_usage=False)  # True would need accelerate
        self.vocoder = load_frozen(SpeechT5HifiGan, folder / "vocoder")
        self.mel = AudioLDMMel()
        self._reduced: dict[torch.dtype, Decode] = {}  # decoders on a copy of the weights
        self._check(source)
        shrink = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.latent_channels = self.vae.config.latent_channels
        self.latent_width = NUM_MELS // shrink
        self.samples_per_latent = HOP * shrink
        salt = f"audioldm {SAMPLE_RATE} {NUM_MELS} {N_FFT} {HOP} {F_MAX} {LEAST}"
        self.identity = files_identity(salt, [folder / NEEDED[0], *weight_files(folder / "vae")])

    def _check(self, source: str) -> None:
        vae, vocoder = self.vae.config, self.vocoder.config
        hop = math.prod(vocoder.upsample_rates)
        for what, found, wanted in (
            ("vae/config.json: in_channels", vae.in_channels, 1),
            ("vocoder/config.json: sampling_rate", vocoder.sampling_rate, SAMPLE_RATE),
            ("vocoder/config.json: model_in_dim", vocoder.model_in_dim, NUM_MELS),
            ("vocoder/config.json: product of upsample_rates", hop, HOP),
        ):
            if found != wanted:
                raise UserError(f"{source}: {what} is {found}, AudioLDM's at 16 kHz is {wanted}: give another model")

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """Encode a waveform (B, S) into moments (B, 2C, H, W). An incomplete last frame is padded with silence."""
        waveform = fit_length(waveform, self.latent_frames(waveform.shape[-1]) * self.samples_per_latent)
        posterior = self.vae.encode(self.mel(waveform)[:, None]).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1)

    @torch.no_grad()
    def decode(self, latents: Tensor, generator: Generators | PositionalNoise | None = None) -> Tensor:
        """Decode raw latents (B, C, H, W) into a waveform (B, S). Decoding is deterministic.

        The vocoder's first upsampling gives one frame more than 5 per input frame. These 32 samples are cut off.
        """
        mel = self.vae.decode(latents).sample[:, 0]  # (B, M, F)
        return self.vocoder(mel)[:, : latents.shape[2] * self.samples_per_latent]

    def decoder_in(self, dtype: torch.dtype) -> Decode:
        """Return ``decode``, or for another dtype than float32 a decoder on a copy of the weights in it.

        In bf16 it takes 0.5 of the time on a CPU with bf16 instructions.
        """
        if dtype == torch.float32:
            return self.decode
        if dtype not in self._reduced:
            run = reduced_decoder(self.vae, self.vocoder, dtype)

            def decode(latents: Tensor, generator: Generators | PositionalNoise | None = None) -> Tensor:
                return run(latents)[:, : latents.shape[2] * self.samples_per_latent]

            self._reduced[dtype] = decode
        return self._reduced[dtype]

    def _apply(self, *args: Any, **kwargs: Any) -> "AudioLDMCodec":
        """Drop the copies when the weights move to another device."""
        self._reduced.clear()
        return super()._apply(*args, **kwargs)


def reduced_decoder(vae: Any, vocoder: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Build a function from raw latents (B, C, H, W) to waveforms (B, S) that computes in ``dtype`` from end to end.

    Its convolutions are in channels_last, so that oneDNN and cuDNN do not reorder activations between them.
    """
    before = vae.post_quant_conv or nn.Identity()
    mel_decoder = copy.deepcopy(nn.Sequential(before, vae.decoder)).to(dtype)
    mel_decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    vocoder = copy.deepcopy(vocoder).to(dtype)

    @torch.no_grad()
    def run(latents: Tensor) -> Tensor:
        mel = mel_decoder(latents.to(dtype, memory_format=torch.channels_last))[:, 0]  # (B, M, F)
        return vocoder(mel).float()

    return run
