"""The built-in codec: linear latents of the log-mel spectrogram, and a learned decoder that samples its fine structure.

Encoder: four log-mel frames of 64 bins (40 ms) are projected onto 64 principal components, which gives 25 latents per
second of 64 numbers. Nothing in it is trained by gradients: latents stay valid when the decoder improves, and
``identity`` covers the encoder only.

Decoder: :class:`NoiseExcitedDecoder`, trained by ``training.codec``. Measurements are in ``assets/codec/README.md``.

Dimension key: B batch, S samples, M mel frames (100 per second), F mel bins, C latent channels, H latent frames, K STFT
bins.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from impact_pl.audio import LogMel, fit_length
from impact_pl.checkpoint_io import load_weights, save_weights
from impact_pl.codecs.base import AudioCodec
from impact_pl.errors import UserError
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
        x = rearrange(0.3 * mel + 1, "b f (t two) -> b t (two f)", two=2)
        x = self.proj_in(torch.cat([x, inputs], dim=-1))  # (B, M/2, D)
        for block in self.blocks:
            x = block(x)
        x = self.proj_out(self.norm(x)).float()
        gains = rearrange(x, "b t (two n k) -> n b (t two) k", two=2, n=NUM_OUTPUTS)  # 5 x (B, M, K)
        with torch.autocast(mel.device.type, enabled=False):
            envelope = (self.interpolation @ level.float()).transpose(1, 2).exp()  # (B, M, K)
            spectrum = gains[0].clamp(-8, 4).exp() * self._noise_spectrum(noise)
            spectrum = spectrum + torch.complex(gains[1], gains[2]) * self._sinusoids(phases, first, num_frames)
            spectrum = spectrum + torch.complex(gains[3], gains[4]) * self._pulses()
            return inverse_stft(envelope * spectrum, self.window, self.hop)

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


MAX_CORRECTION = 3.0  # nepers (26 dB) in one step of ``correct_mel``


@dataclass
class BuiltinCodecSpec:
    """Schema of a codec folder's config.json. ``sample_rate`` to ``posterior_std`` define the latents."""

    sample_rate: int = 16_000
    num_mels: int = 64  # F
    n_fft: int = 1024
    hop: int = 160
    frames_per_latent: int = 4
    latent_channels: int = 64  # C
    floor_db: float = -60.0  # level of the white noise assumed under every sound
    posterior_std: float = 0.05  # fraction of the latents' overall standard deviation
    decoder_dim: int = 256
    decoder_depth: int = 8
    mel_corrections: int = 0  # steps of ``correct_mel`` after the decoder


ENCODER_FIELDS = tuple(BuiltinCodecSpec.__dataclass_fields__)[:8]


class BuiltinCodec(AudioCodec):
    """PCA of the log-mel spectrogram and a noise-excited decoder.

    Channel k is the k-th principal component divided by its eigenvalue to the power 1/4. A generator makes errors of
    equal size in all channels, relative to the latents' overall standard deviation. Of all powers, 1/4 then gives the
    smallest error in the mel spectrogram: for channels divided by v^(a/2) that error is sum(v^a) * mean(v^(1-a)), which
    is smallest at a = 1/2. Full whitening (a = 1) and none (a = 0) are equally bad.
    """

    name = "builtin"
    latent_width = 1
    pca_mean: Tensor  # (4F,)
    pca_basis: Tensor  # (C, 4F), orthonormal rows
    eigenvalues: Tensor  # (C,), variances of the components
    unit_noise_mel: Tensor  # (F,)
    interpolation: Tensor  # (K, F)
    floor: Tensor  # (F,) log-mel of the noise under every sound
    ceiling: Tensor  # (F,), upper bound for any waveform in [-1, 1]

    def __init__(self, spec: BuiltinCodecSpec | None = None):
        super().__init__()
        self.spec = spec = spec or BuiltinCodecSpec()
        self.sample_rate = spec.sample_rate
        self.latent_channels = spec.latent_channels
        self.samples_per_latent = spec.hop * spec.frames_per_latent
        # Blocks see three pairs of mel frames on each side; the STFTs of correction and synthesis reach a window.
        mel_frames = 6 * spec.decoder_depth + (1 + spec.mel_corrections) * (2 * spec.n_fft // spec.hop)
        self.decode_context = -(-mel_frames // spec.frames_per_latent)
        self.log_mel = LogMel(spec.sample_rate, spec.num_mels, spec.n_fft, spec.hop)
        patch_dim = spec.frames_per_latent * spec.num_mels
        self.register_buffer("pca_mean", torch.zeros(patch_dim))
        self.register_buffer("pca_basis", torch.eye(patch_dim)[: spec.latent_channels])
        self.register_buffer("eigenvalues", torch.ones(spec.latent_channels))
        self.register_buffer("unit_noise_mel", self._unit_noise_mel(), persistent=False)
        floor = self.unit_noise_mel + math.log(10) * spec.floor_db / 20
        self.register_buffer("floor", floor, persistent=False)
        loudest = (self.log_mel.window.sum() * self.log_mel.filters.sum(dim=1)).log()
        self.register_buffer("ceiling", loudest, persistent=False)
        interpolation = mel_interpolation(spec.num_mels, spec.n_fft // 2 + 1, spec.sample_rate)
        self.register_buffer("interpolation", interpolation, persistent=False)
        self.decoder = NoiseExcitedDecoder(
            spec.num_mels, spec.hop, spec.sample_rate, spec.decoder_dim, spec.decoder_depth
        )

    def _unit_noise_mel(self) -> Tensor:
        """Compute the log-mel (F,) of unit white noise, the reference level of floor and excitation."""
        # A bin's magnitude is Rayleigh distributed with mean square sum(window^2), hence the mean sqrt(pi/4 ...).
        magnitude = (math.pi / 4 * self.log_mel.window.square().sum()).sqrt()
        return (magnitude * self.log_mel.filters.sum(dim=1)).log()

    @property
    def latent_std(self) -> Tensor:
        """Overall standard deviation of the raw latents: the root of the mean channel variance."""
        return self.eigenvalues.sqrt().mean().sqrt()

    @property
    def identity(self) -> str:  # type: ignore[override]
        """Hash of everything that defines the latents. The decoder's weights are deliberately excluded."""
        spec = {name: value for name, value in asdict(self.spec).items() if name in ENCODER_FIELDS}
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
        for tensor in (self.pca_mean, self.pca_basis, self.eigenvalues):
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def mel_patches(self, waveform: Tensor) -> Tensor:
        """Convert a waveform (B, S) to floored log-mel patches (B, H, 4F), frames before bins.

        The floor adds the mean magnitude of white noise at ``floor_db`` to each bin (as powers). Digital silence
        therefore equals faint noise, without any random number.
        """
        waveform = fit_length(waveform, self.latent_frames(waveform.shape[-1]) * self.samples_per_latent)
        mel = self.with_floor(self.log_mel(waveform))  # (B, F, M)
        return rearrange(mel, "b f (h t) -> b h (t f)", t=self.spec.frames_per_latent)

    def with_floor(self, mel: Tensor) -> Tensor:
        """Add the power of the noise at ``floor_db`` to a log-mel (B, F, M)."""
        return torch.logaddexp(2 * mel, 2 * self.floor[:, None]) / 2

    def fit_latents(self, waveforms: list[Tensor]) -> None:
        """Fit the principal components to waveforms, each (S,)."""
        dim = self.pca_mean.numel()
        count, total, outer = 0, torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64)
        for waveform in waveforms:
            patches = self.mel_patches(waveform[None])[0].double()  # (H, 4F)
            count, total, outer = count + len(patches), total + patches.sum(0), outer + patches.T @ patches
        if count <= dim:
            raise UserError(
                f"{count} latent frames are too few to fit {dim} dimensions: give more than {dim / 25:.0f} s"
            )
        mean = total / count
        values, vectors = torch.linalg.eigh(outer / count - torch.outer(mean, mean))  # ascending
        basis = vectors.flip(1)[:, : self.latent_channels].T  # (C, 4F)
        basis = basis * basis.sum(dim=1, keepdim=True).sign()  # fixes the arbitrary sign of the eigenvectors
        self.pca_mean.copy_(mean)
        self.pca_basis.copy_(basis)
        self.eigenvalues.copy_(values.flip(0)[: self.latent_channels].clamp(min=1e-6))

    def latent_mean(self, waveform: Tensor) -> Tensor:
        """Encode a waveform (B, S) into the mean (B, C, H, 1) of its latents."""
        patches = self.mel_patches(waveform) - self.pca_mean  # (B, H, 4F)
        latents = patches @ self.pca_basis.T / self.eigenvalues**0.25  # (B, H, C)
        return rearrange(latents, "b h c -> b c h 1")

    def decode_mel(self, latents: Tensor) -> Tensor:
        """Invert the linear encoder: latents (B, C, H, 1) -> log-mel (B, F, M).

        Limits keep the exponentials finite for the implausible latents of a barely trained generator.
        """
        latents = rearrange(latents, "b c h 1 -> b h c") * self.eigenvalues**0.25
        patches = latents @ self.pca_basis + self.pca_mean  # (B, H, 4F)
        mel = rearrange(patches, "b h (t f) -> b f (h t)", t=self.spec.frames_per_latent)
        return mel.clamp(self.floor[:, None] - 5, self.ceiling[:, None])

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """Encode a waveform (B, S) into moments (B, 2C, H, 1).

        The std is constant and small compared to the latents' own.
        """
        mean = self.latent_mean(waveform)
        std = (self.spec.posterior_std * self.latent_std).expand_as(mean)
        return torch.cat([mean, std], dim=1)

    @torch.no_grad()
    def decode(self, latents: Tensor, generator: Generators | PositionalNoise | None = None) -> Tensor:
        """Decode latents (B, C, H, 1) into a waveform (B, S). ``generator`` drives the excitation (None: seed 0)."""
        waveform = self.synthesize(latents, generator or torch.Generator().manual_seed(0))
        with torch.autocast(latents.device.type, enabled=False):
            for _ in range(self.spec.mel_corrections):
                waveform = self.correct_mel(waveform.float(), self.decode_mel(latents.float()))
        return waveform

    def synthesize(self, latents: Tensor, generator: Generators | PositionalNoise) -> Tensor:
        """Run the decoder with gradients; this is the training version of ``decode``."""
        mel = self.decode_mel(latents)
        return self.decoder(mel, self.excess_level(mel), generator)

    def correct_mel(self, waveform: Tensor, mel: Tensor) -> Tensor:
        """Move the log-mel of a waveform (B, S) towards ``mel`` (B, F, M), keeping its phases and fine structure.

        The decoder's samples match the latents on average only. Here each STFT bin is multiplied by the gain that the
        waveform's mel spectrogram is missing, so that it matches frame by frame. One step is best: overlapping frames
        share samples, and more steps trade the sampled phases for ones that no recording has.

        Note:
            A decoder trained through this step was worse (FD-YAMNet, same loss), so training skips it.
        """
        spectrum = self.log_mel.spectrum(waveform)  # (B, K, M)
        lacking = mel - self.with_floor(self.log_mel.from_spectrum(spectrum))  # (B, F, M)
        gains = (self.interpolation @ lacking.clamp(-MAX_CORRECTION, MAX_CORRECTION)).exp()
        return inverse_stft((gains * spectrum).transpose(1, 2), self.log_mel.window, self.spec.hop)

    def excess_level(self, mel: Tensor) -> Tensor:
        """Convert a log-mel (B, F, M) to its excess over the floor (at least -20 dB), relative to unit white noise."""
        excess = (2 * (mel - self.floor[:, None])).exp().sub(1).clamp(min=0.01)  # power relative to the floor
        return excess.log() / 2 + (self.floor - self.unit_noise_mel)[:, None]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors (decoder in float16, principal components in float32)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name: tensor.to(torch.float16 if name.startswith("decoder.") else torch.float32)
            for name, tensor in self.state_dict().items()
        }
        sha256 = save_weights(state, folder / "model.safetensors")
        config = {"codec": type(self).name, "weights_sha256": sha256, **asdict(self.spec)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "BuiltinCodec":
        """Load a folder written by ``save_pretrained``.

        Raises:
            UserError: A file is missing or has unexpected content.
        """
        folder = Path(folder)
        if not (folder / "model.safetensors").is_file():
            raise UserError(f"no codec in {folder}: model.safetensors is missing")
        config = json.loads((folder / "config.json").read_text())
        if config.pop("codec", None) != cls.name:
            raise UserError(f"{folder / 'config.json'} does not describe a '{cls.name}' codec")
        weights = load_weights(folder / "model.safetensors", config.pop("weights_sha256", None))
        codec = cls(BuiltinCodecSpec(**config))
        codec.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        return codec.eval()
