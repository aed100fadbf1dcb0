"""The built-in codec: linear latents of the log-mel spectrogram, and a learned decoder that samples its fine structure.

Encoder: four log-mel frames of 64 bins (40 ms) are projected onto 64 principal components, which gives 25 latents per
second of 64 numbers. Nothing in it is trained by gradients: latents stay valid when the decoder improves, and
``identity`` covers the encoder only.

Decoder: :class:`codecs.decoder.NoiseExcitedDecoder`, trained by ``training.codec``. Measurements are in
``assets/codec/README.md``.

Dimension key: B batch, S samples, M mel frames (100 per second), F mel bins, C latent channels, H latent
frames, K STFT bins.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from impact_pl.audio import fit_length
from impact_pl.checkpoint_io import Uninitialised, load_weights, save_weights
from impact_pl.codecs.base import AudioCodec
from impact_pl.codecs.decoder import NoiseExcitedDecoder, inverse_stft, mel_interpolation
from impact_pl.errors import UserError
from impact_pl.randomness import Generators, PositionalNoise
from impact_pl.spectrogram import LogMel

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
        """Fit the principal components, and the residual's basis, to waveforms, each (S,).

        Raises:
            UserError: The waveforms have fewer latent frames than a patch has dimensions.
        """
        dim = self.pca_mean.numel()
        count, total, outer = 0, torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64)
        for waveform in waveforms:
            patches = self.mel_patches(waveform[None])[0].double()  # (H, 4F)
            count, total, outer = count + len(patches), total + patches.sum(0), outer + patches.T @ patches
        if count <= dim:
            seconds = dim * self.samples_per_latent / self.sample_rate
            raise UserError(
                f"{count} latent frames are too few to fit {dim} dimensions: give more than {seconds:.1f} s of audio"
            )
        mean = total / count
        values, vectors = torch.linalg.eigh(outer / count - torch.outer(mean, mean))  # ascending
        basis, values = vectors.flip(1).T, values.flip(0).clamp(min=1e-6)  # (4F, 4F), (4F,), largest first
        basis = basis * basis.sum(dim=1, keepdim=True).sign()  # fixes the arbitrary sign of the eigenvectors
        self.pca_mean.copy_(mean)
        self.pca_basis.copy_(basis[: self.latent_channels])
        self.eigenvalues.copy_(values[: self.latent_channels])

    def latent_mean(self, waveform: Tensor) -> Tensor:
        """Encode a waveform (B, S) into the mean (B, C, H, 1) of its latents."""
        return self.project(self.mel_patches(waveform))

    def project(self, patches: Tensor) -> Tensor:
        """Project log-mel patches (B, H, 4F) onto the principal components: latents (B, C, H, 1)."""
        latents = (patches - self.pca_mean) @ self.pca_basis.T / self.eigenvalues**0.25  # (B, H, C)
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
        generator = generator or torch.Generator().manual_seed(0)
        with torch.autocast(latents.device.type, enabled=False):
            mel = self.decode_mel(latents.float())
        return self.vocode(mel, generator)

    def vocode(self, mel: Tensor, generator: Generators | PositionalNoise) -> Tensor:
        """Decode a log-mel (B, F, M) into a waveform (B, S). M is even."""
        waveform = self.decoder(mel, self.excess_level(mel), generator)
        with torch.autocast(mel.device.type, enabled=False):
            for _ in range(self.spec.mel_corrections):
                waveform = self.correct_mel(waveform.float(), mel)
        return waveform

    def synthesize(self, latents: Tensor, generator: Generators) -> Tensor:
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
        with Uninitialised():
            codec = cls(BuiltinCodecSpec(**config))
        codec.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        return codec.eval()
