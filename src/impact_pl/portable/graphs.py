"""The parts of a pipeline as modules that ONNX can express: tensors in, tensors out, no complex numbers, no drawing.

The Fourier transforms of the codec are matrix products here, and frames are cut and added as multiples of the hop.

Dimension key: B clips, L text positions, N patches, N_keep known patches, K requested positions, P numbers per patch, D
width, S samples, M mel frames, F mel bins, T STFT bins.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from impact_pl.codecs.builtin import MAX_CORRECTION, BuiltinCodec
from impact_pl.models.condition import Condition
from impact_pl.models.heads.diffusion import DiffusionHead
from impact_pl.models.impact import Impact
from impact_pl.models.latent_encoder import LatentEncoder
from impact_pl.text_encoders.base import TextFeatures
from impact_pl.text_encoders.minilm import FEATURE, MiniLM


class TextGraph(nn.Module):
    """Token ids to the condition of the encoder: the text encoder and the model's embedding of its features."""

    def __init__(self, text_encoder: MiniLM, model: Impact) -> None:
        super().__init__()
        self.bert, self.model = text_encoder.model, model

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute states (B, L, D) and the positions (B, L) bool to attend to.

        ``ids`` (B, L) int64 are tokens where ``mask`` (B, L) is True. A row without any is the null condition.
        """
        first = torch.arange(ids.shape[1]) == 0  # attention needs a position to look at
        features = self.bert(ids, mask | first) * mask[..., None]
        cond = self.model.embed_text(TextFeatures({FEATURE: features}, mask), ids.shape[0])
        assert cond is not None, "the model has text"
        everywhere = torch.ones_like(mask)
        return cond.states, everywhere if cond.text_mask is None else cond.text_mask


class EncoderGraph(nn.Module):
    """The masked encoder, as :meth:`LatentEncoder.forward` runs it."""

    def __init__(self, encoder: LatentEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, patches: Tensor, kept: Tensor, states: Tensor, text_mask: Tensor, positions: Tensor) -> Tensor:
        """Compute hidden vectors (B, K, D) at ``positions`` (B, K) int64.

        Args:
            patches: (B, N, P). Those that are not ``kept`` are not read.
            kept: (B, N_keep) int64, ascending.
            states: (B, L, D), of :class:`TextGraph`.
            text_mask: (B, L) bool, likewise.
            positions: (B, K) int64.
        """
        encoder, cond = self.encoder, Condition(states, text_mask=text_mask)
        x = encoder.enc1(encoder.known(patches, kept, cond), key_mask=cond.key_mask(kept.shape[1]))
        text, x = encoder.filled(x, kept, patches.shape[1])
        x = encoder.everywhere(text, x, cond)
        key_mask = cond.key_mask(patches.shape[1])
        return encoder.hidden(encoder.enc2(x, positions + states.shape[1], key_mask), positions)


class HeadGraph(nn.Module):
    """One evaluation of the diffusion head's network."""

    def __init__(self, head: DiffusionHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, noisy: Tensor, timestep: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the network's output (noise or velocity) and its variance, each (K, P).

        Args:
            noisy: (K, P).
            timestep: (1,) int64.
            hidden: (K, D).
        """
        head = self.head
        output, variance = head.network(head.input_proj(noisy), timestep, head.cond_proj(hidden)).chunk(2, dim=-1)
        return output, variance


class Fourier(nn.Module):
    """Short-time Fourier transform and its inverse, as matrix products in real numbers.

    The matrices are computed in the graph, where a runner folds them: they would be larger than the codec's weights.
    """

    window: Tensor  # (n_fft,)
    times: Tensor  # (n_fft,), 0, 1, 2 and so on: traced as a weight, what is computed from it is not stored
    circle: Tensor  # (2, n_fft), cosines and negative sines of a turn
    weights: Tensor  # (2T,), of the bins in the inverse

    def __init__(self, window: Tensor, hop: int) -> None:
        super().__init__()
        self.hop, self.n_fft = hop, len(window)
        self.num_bins, self.num_parts = self.n_fft // 2 + 1, -(-self.n_fft // hop)
        angles = 2 * math.pi * torch.arange(self.n_fft, dtype=torch.float64) / self.n_fft
        weights = torch.full((self.num_bins,), 2.0 / self.n_fft)
        weights[[0, -1]] /= 2
        self.register_buffer("window", window)
        self.register_buffer("times", torch.arange(self.n_fft))
        self.register_buffer("circle", torch.stack([angles.cos(), -angles.sin()]).float())
        self.register_buffer("weights", torch.cat([weights, weights]))

    def _waves(self) -> Tensor:
        """Compute windowed cosines and negative sines (n_fft, 2T) of all bins."""
        places = self.times[:, None] * self.times[: self.num_bins] % self.n_fft  # (n_fft, T)
        return torch.cat([self.circle[0][places], self.circle[1][places]], dim=1) * self.window[:, None]

    def forward(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        """Transform a signal (B, S) of M hops and a window less a hop: real and imaginary parts, each (B, M, T)."""
        num_frames = (padded.shape[1] - self.n_fft) // self.hop + 1
        padded = F.pad(padded, (0, self.num_parts * self.hop - self.n_fft))  # whole hops
        hops = padded.unflatten(1, (-1, self.hop))  # (B, M + parts - 1, hop)
        frames = torch.cat([hops[:, part : part + num_frames] for part in range(self.num_parts)], dim=2)
        real, imaginary = (frames[..., : self.n_fft] @ self._waves()).chunk(2, dim=-1)
        return real, imaginary

    def inverse(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """Invert spectra (B, M, T) into a waveform (B, hop * M), as :func:`impact_pl.codecs.decoder.inverse_stft`."""
        frames = torch.cat([real, imaginary], dim=-1) @ (self._waves() * self.weights).T  # (B, M, n_fft)
        weight = self.window.square().expand(1, frames.shape[1], -1)
        pad, length = (self.n_fft - self.hop) // 2, frames.shape[1] * self.hop
        total, weight = self._overlapped(frames), self._overlapped(weight)
        return (total / weight.clamp(min=1e-3))[:, pad : pad + length]

    def _overlapped(self, frames: Tensor) -> Tensor:
        """Add frames (B, M, n_fft) at their places: (B, hop * (M + parts - 1))."""
        padded = F.pad(frames, (0, self.num_parts * self.hop - self.n_fft))
        parts = padded.unflatten(2, (self.num_parts, self.hop)).unbind(2)  # parts x (B, M, hop)
        shifted = [F.pad(part, (0, 0, i, self.num_parts - 1 - i)) for i, part in enumerate(parts)]
        return torch.stack(shifted).sum(dim=0).flatten(1)


class MelGraph(nn.Module):
    """Log-mel of a waveform with the codec's floor."""

    def __init__(self, codec: BuiltinCodec) -> None:
        super().__init__()
        self.codec, log_mel = codec, codec.log_mel
        self.pad = (log_mel.n_fft - log_mel.hop) // 2
        self.fourier = Fourier(log_mel.window, log_mel.hop)

    def spectrum(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Transform a waveform (B, S): real and imaginary parts, each (B, M, T)."""
        return self.fourier(F.pad(waveform, (self.pad, self.pad), mode="reflect"))

    def mel(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """Compute the log-mel with floor (B, F, M) of parts (B, M, T)."""
        magnitude = (real.square() + imaginary.square()).sqrt().transpose(1, 2)
        log_mel = (self.codec.log_mel.filters @ magnitude).clamp(min=1e-5).log()
        return ((2 * log_mel).exp() + (2 * self.codec.floor[:, None]).exp()).log() / 2


class AudioEncoderGraph(nn.Module):
    """A waveform to whitened patches: the codec's encoder and the model's whitening."""

    def __init__(self, codec: BuiltinCodec, model: Impact) -> None:
        super().__init__()
        self.codec, self.model, self.log_mel = codec, model, MelGraph(codec)

    def forward(self, waveform: Tensor) -> Tensor:
        """Encode waveforms (B, S), whole patches long, into patches (B, N, P)."""
        mel = self.log_mel.mel(*self.log_mel.spectrum(waveform))  # (B, F, M)
        mel_patches = rearrange(mel, "b f (h t) -> b h (t f)", t=self.codec.spec.frames_per_latent)
        moments = self.codec.project(mel_patches)  # the mean; (B, C, H, 1)
        return self.model.patchify(self.model.whiten(torch.cat([moments, moments], dim=1), None))


class AudioDecoderGraph(nn.Module):
    """Whitened patches to a waveform, as :meth:`BuiltinCodec.decode`, given what it draws."""

    bins: Tensor  # (T,)
    pulses: Tensor  # (T,), spectrum of a pulse in the middle of the window

    def __init__(self, codec: BuiltinCodec, model: Impact) -> None:
        super().__init__()
        self.codec, self.model, self.log_mel = codec, model, MelGraph(codec)
        self.fourier = Fourier(codec.decoder.window, codec.decoder.hop)
        bins = torch.arange(codec.decoder.num_bins)
        self.register_buffer("bins", bins)
        self.register_buffer("pulses", 1.0 - 2 * (bins % 2))

    def forward(self, patches: Tensor, noise: Tensor, phases: Tensor, inputs: Tensor) -> Tensor:
        """Decode patches (B, N, P) of M mel frames into waveforms (B, hop * M).

        Args:
            patches: Whitened.
            noise: (B, (M - 1) hop + n_fft), standard normal.
            phases: (B, T), uniform in [0, 2 pi).
            inputs: (B, M/2, channels), standard normal.
        """
        codec, decoder = self.codec, self.codec.decoder
        mel = codec.decode_mel(self.model.unwhiten(self.model.unpatchify(patches)))  # (B, F, M)
        gains = decoder.gains(mel, inputs)  # 5 x (B, M, T)
        envelope = (decoder.interpolation @ codec.excess_level(mel)).transpose(1, 2).exp()  # (B, M, T)
        real, imaginary = self._excited(gains, noise, phases)
        waveform = self.fourier.inverse(envelope * real, envelope * imaginary)
        for _ in range(codec.spec.mel_corrections):
            waveform = self._with_mel(waveform, mel)
        return waveform

    def _excited(self, gains: Tensor, noise: Tensor, phases: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the gains to noise, sinusoids and pulses (:class:`NoiseExcitedDecoder`): parts (B, M, T)."""
        level = self.codec.decoder.window.square().sum().sqrt()
        frames = torch.arange(gains.shape[2])[:, None]
        clock = (frames * self.fourier.hop * self.bins) % self.fourier.n_fft  # (M, T)
        angle = phases[:, None] + 2 * math.pi / self.fourier.n_fft * clock.float()
        cos, sin, pulses = level * angle.cos(), level * angle.sin(), level * self.pulses
        real, imaginary = self.fourier(noise)
        loudness = gains[0].clamp(-8, 4).exp()
        real = loudness * real + gains[1] * cos - gains[2] * sin + gains[3] * pulses
        imaginary = loudness * imaginary + gains[1] * sin + gains[2] * cos + gains[4] * pulses
        return real, imaginary

    def _with_mel(self, waveform: Tensor, mel: Tensor) -> Tensor:
        """Apply :meth:`BuiltinCodec.correct_mel`."""
        real, imaginary = self.log_mel.spectrum(waveform)
        lacking = mel - self.log_mel.mel(real, imaginary)
        gains = (self.codec.interpolation @ lacking.clamp(-MAX_CORRECTION, MAX_CORRECTION)).exp().transpose(1, 2)
        return self.log_mel.fourier.inverse(gains * real, gains * imaginary)
