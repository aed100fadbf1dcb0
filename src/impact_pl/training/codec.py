"""Training of the built-in codec's decoder (`impact train experiment=codec`).

The latents are principal components: they are fitted once at the start, or taken from ``init_from``, and never trained.
With as many of them as a patch has numbers, they hold the mel spectrogram itself, and the decoder is a vocoder.
The decoder trains on crops whose latents have errors like a generator's: white noise of up to ``latent_noise`` times
the latents' overall standard deviation.

All randomness of step n derives from (seed, n), and crops are drawn inside the step, so a resumed run continues exactly
where it stopped.

Dimension key: B batch, S samples per crop, C latent channels, H latent frames, K STFT bins or mel bins, M frames.
"""

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader

from impact_pl._torchaudio import torchaudio
from impact_pl.codecs.builtin import BuiltinCodec, BuiltinCodecSpec
from impact_pl.codecs.registry import load_codec
from impact_pl.config import TrainConfig
from impact_pl.data.clips import draw_crops, load_clips, to_float
from impact_pl.data.order import derive_seed
from impact_pl.errors import UserError
from impact_pl.secrets import without_secrets
from impact_pl.training.checkpoint import read_checkpoint, rewind_loops
from impact_pl.training.checkpoint_files import find, set_aside
from impact_pl.training.optim import ExponentialMovingAverage, build_optimizer, warmup
from impact_pl.training.strategies import check_devices
from impact_pl.training.trainer import Progress, RunContext, TrainingResult, build_trainer, fit

NUM_VALID_CROPS = 64
MAX_FIT_SECONDS = 10  # per clip, for the principal components
TRAINING, VALIDATION = range(2)  # purposes of derived seeds
SCALES = ((128, 20), (512, 40), (1024, 80), (2048, 80))  # FFT size and number of mel bins; the hop is half the FFT
LOG_OFFSET = 1e-4


class SpectralFeatures(nn.Module):
    """Log-STFT and log-mel magnitudes at several resolutions: waveforms (B, S) -> list of (B, K, M)."""

    def __init__(self, sample_rate: int):
        super().__init__()
        for n_fft, num_mels in SCALES:
            filters = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 0, sample_rate / 2, num_mels, sample_rate)
            self.register_buffer(f"filters_{n_fft}", filters.T / filters.T.sum(dim=1, keepdim=True).clamp(min=1e-3))
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft))

    def forward(self, waveform: Tensor) -> list[Tensor]:
        features = []
        for n_fft, _ in SCALES:
            window = getattr(self, f"window_{n_fft}")
            spectrum = torch.stft(waveform, n_fft, n_fft // 2, window=window, return_complex=True)
            magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt() / window.square().sum().sqrt()
            features.append((magnitude + LOG_OFFSET).log())
            features.append((getattr(self, f"filters_{n_fft}") @ magnitude + LOG_OFFSET).log())
        return features


class EnergyDistance(nn.Module):
    """Energy distance between two independent draws y1, y2 and the recording x: 1/2 [L(y1,x) + L(y2,x)] - 1/2 L(y1,y2).

    L is the mean absolute difference of ``SpectralFeatures``. The second term rewards variety: the distance is minimal
    when draws follow the distribution of recordings, whereas L alone is minimal at the median, which buzzes (Szekely
    and Rizzo 2013; for a vocoder, Gritsenko et al. 2020, "A Spectral Energy Distance for Parallel Speech Synthesis").
    Independent noise at ``dither_db`` on all three prevents silence from dominating.
    """

    def __init__(self, sample_rate: int, dither_db: float = -60.0):
        super().__init__()
        self.features = SpectralFeatures(sample_rate)
        self.dither = 10 ** (dither_db / 20)

    def forward(self, target: Tensor, draws: Tensor, generator: Generator) -> Tensor:
        """Compute the distance (scalar) of target (B, S) and draws (2B, S), with the draws of clip i at i and B + i."""
        waveforms = torch.cat([target, draws])  # (3B, S)
        noise = torch.randn(waveforms.shape, generator=generator).to(waveforms.device)
        distance = waveforms.new_zeros(())
        for features in self.features(waveforms + self.dither * noise):
            x, y1, y2 = features.chunk(3)
            to_target = ((y1 - x).abs().mean() + (y2 - x).abs().mean()) / 2
            distance = distance + to_target - (y1 - y2).abs().mean() / 2
        return distance / (2 * len(SCALES))


class CodecTraining(LightningModule):
    """Energy-distance training of the decoder, with an EMA of its weights, which is exported.

    Args:
        codec: Codec with fitted latents, or one to be filled from a checkpoint.
        clips: Training recordings, each (S_i,) int16.
        valid_clips: Validation recordings; may be empty.
        config: The complete configuration, stored in checkpoints as plain dicts.
    """

    def __init__(self, codec: BuiltinCodec, clips: list[Tensor], valid_clips: list[Tensor], config: TrainConfig):
        super().__init__()
        self.save_hyperparameters(
            {"stage": "codec", "config": without_secrets(dataclasses.asdict(config))}, logger=False
        )
        self.config, self.codec = config, codec
        self.clips, self.valid_clips = clips, valid_clips
        self.ema = ExponentialMovingAverage(codec.decoder, config.optim.ema_decay, config.optim.ema_warmup)
        self.distance = EnergyDistance(codec.sample_rate)
        latents_per_crop = max(1, round(config.codec.crop_seconds * codec.sample_rate / codec.samples_per_latent))
        self.crop_samples = latents_per_crop * codec.samples_per_latent
        self.gradient_norm = self.last_lr = math.nan
        self.last_losses: dict[str, Tensor] = {}
        self.batch_done_at = time.perf_counter()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        generator = Generator().manual_seed(derive_seed(self.config.seed, self.global_step, TRAINING))
        loss = self._loss(self.clips, generator)
        self.last_losses = {"loss": loss.detach()}
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=1)
        return loss

    def on_train_start(self) -> None:
        self.batch_done_at = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batch_done_at = time.perf_counter()  # after all callbacks

    def on_validation_end(self) -> None:
        self.batch_done_at = time.perf_counter()

    def on_validation_epoch_start(self) -> None:
        self._valid_losses: list[float] = []

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Compute the energy distance of the averaged decoder, on the same crops and noise in all training runs."""
        generator = Generator().manual_seed(derive_seed(batch_idx, VALIDATION))
        with self.averaged_decoder():
            self._valid_losses.append(float(self._loss(self.valid_clips, generator)))

    def on_validation_epoch_end(self) -> None:
        mean = sum(self._valid_losses) / max(1, len(self._valid_losses))
        self.log_dict({"valid/loss": mean, "step": float(self.global_step)})

    def _loss(self, clips: list[Tensor], generator: Generator) -> Tensor:
        """Compute the energy distance on B random crops; one in eleven has clean latents."""
        crops = draw_crops(clips, self.config.data.batch_size, self.crop_samples, generator).to(self.device)  # (B, S)
        amount = (1.1 * torch.rand(len(crops), 1, 1, 1, generator=generator) - 0.1).clamp(min=0)
        with torch.autocast(self.device.type, enabled=False):
            latents = self.codec.latent_mean(crops)  # (B, C, H, 1)
            errors = self.config.codec.latent_noise * amount * torch.randn(latents.shape, generator=generator)
            latents = latents + errors.to(latents) * self.codec.latent_std
        draws = self.codec.synthesize(torch.cat([latents, latents]), generator)  # (2B, S)
        with torch.autocast(self.device.type, enabled=False):
            return self.distance(crops, draws.float(), generator)

    @contextmanager
    def averaged_decoder(self) -> Iterator[None]:
        """Decode with the averaged weights inside this context."""
        trained, self.codec.decoder = self.codec.decoder, self.ema.model
        try:
            yield
        finally:
            self.codec.decoder = trained

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the global norm. Stop on a non-finite norm before the optimizer uses it."""
        limit = gradient_clip_val or math.inf
        self.gradient_norm = float(torch.nn.utils.clip_grad_norm_(self.codec.decoder.parameters(), limit))
        if not math.isfinite(self.gradient_norm):
            raise UserError(
                f"training stopped at step {self.global_step}: gradient norm {self.gradient_norm}. The last checkpoint "
                f"is kept; try trainer.precision=32-true or a lower optim.lr (now {self.config.optim.lr})"
            )
        self.last_lr = optimizer.param_groups[0]["lr"]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.codec.decoder, step)

    def configure_optimizers(self) -> Any:
        """Configure AdamW with linear warm-up, then a cosine to zero at ``max_steps``."""
        optimizer = build_optimizer(self.codec.decoder, self.config.optim)

        def factor(step: int) -> float:
            share = min(1.0, step / self.config.trainer.max_steps)
            return warmup(step, self.config.optim.warmup_steps) * (0.5 + 0.5 * math.cos(math.pi * share))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train_dataloader(self) -> DataLoader:
        """Yield one index per step; ``training_step`` draws the crops."""
        return self._numbers(self.config.trainer.max_steps)

    def val_dataloader(self) -> DataLoader:
        return self._numbers(bool(self.valid_clips) * math.ceil(NUM_VALID_CROPS / self.config.data.batch_size))

    def _numbers(self, count: int) -> DataLoader:
        return DataLoader(range(count), batch_size=None)  # type: ignore[arg-type]  # a range has length and items

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        rewind_loops(checkpoint, self.trainer)


def check_codec_config(config: TrainConfig) -> None:
    """Check that the codec's training supports the configuration: one device, no micro-batches, at least one step."""
    if config.trainer.devices * config.trainer.num_nodes != 1:
        raise UserError("the codec trains on one device: set trainer.devices=1 and trainer.num_nodes=1")
    for name, without in (("global_batch_size", (0, config.data.batch_size)), ("accumulate_grad_batches", (1,))):
        if (value := getattr(config.trainer, name)) not in without:
            raise UserError(f"trainer.{name}={value}: the codec takes data.batch_size crops per step, set that instead")
    if config.trainer.max_steps == 0:
        raise UserError("trainer.max_steps=0: the codec needs at least one step")
    spec = BuiltinCodecSpec()
    if config.codec.latent_channels > (most := spec.frames_per_latent * spec.num_mels):
        raise UserError(f"codec.latent_channels={config.codec.latent_channels}: choose at most {most}")


def train_codec(config: TrainConfig, context: RunContext) -> TrainingResult:
    """Train or resume the decoder on the manifest ``data.path``; finally write ``runs/<name>/model``.

    Records of split ``train`` are used for training, those of ``valid`` (if any) for validation. ``init_from``, a codec
    folder, provides initial latents and decoder.

    Raises:
        UserError: There is no manifest, no training record or too little audio, or ``init_from`` is not a codec.
    """
    check_devices(config.trainer)
    run_dir = Path(config.runs_dir) / config.name
    path = run_dir / "checkpoints" / "last.ckpt"
    last = find(path)
    codec, is_new = _initial_codec(config)
    progress = _check_resume(codec, last) if last else Progress()
    clips, valid_clips = load_clips(config.data.path, codec.sample_rate)
    if is_new and not last:
        codec.fit_latents([to_float(clip[: MAX_FIT_SECONDS * codec.sample_rate]) for clip in clips])
    path.parent.mkdir(parents=True, exist_ok=True)
    set_aside(path, last)
    module = CodecTraining(codec, clips, valid_clips, config)
    trainer = build_trainer(config, run_dir, context, None, progress)
    exit_code = fit(trainer, module, context, last)
    if exit_code:
        return TrainingResult(trainer.global_step, None, exit_code)
    with module.averaged_decoder():
        codec.save_pretrained(run_dir / "model")
    print(f"trained to {trainer.global_step} steps: the codec is in {run_dir / 'model'}", flush=True)
    return TrainingResult(trainer.global_step, run_dir / "model")


def _check_resume(codec: BuiltinCodec, last: Path) -> Progress:
    """Determine where the run continues, and reject the checkpoint of another one."""
    checkpoint = read_checkpoint(last, "stage")
    stage = checkpoint["hyper_parameters"]["stage"]
    changed = [] if stage == "codec" else [f"stage {stage} -> codec"]
    if not changed:
        old = {name: value.shape for name, value in checkpoint["state_dict"].items() if name.startswith("codec.")}
        new = {f"codec.{name}": value.shape for name, value in codec.state_dict().items()}
        names = [name for name in old | new if old.get(name) != new.get(name)]
        changed = [f"{len(names)} weights differ, first {names[0]}"] if names else []
    if changed:
        raise UserError(
            f"{last.parent.parent} holds another training: {'; '.join(changed)}. Choose another name=..., set "
            "codec.latent_channels, codec.decoder_dim, codec.decoder_depth and init_from back, or delete the directory"
        )
    return Progress.of(checkpoint)


def _initial_codec(config: TrainConfig) -> tuple[BuiltinCodec, bool]:
    """Create a codec, or load the one that ``init_from`` names; also returns whether its latents are to be fitted.

    With another ``codec.latent_channels`` than its own, only the decoder is that of ``init_from``.
    """
    settings = config.codec
    torch.manual_seed(config.seed)
    if not config.init_from:
        spec = BuiltinCodecSpec(
            latent_channels=settings.latent_channels or BuiltinCodecSpec.latent_channels,
            decoder_dim=settings.decoder_dim,
            decoder_depth=settings.decoder_depth,
            mel_corrections=settings.mel_corrections,
        )
        return BuiltinCodec(spec), True
    source = load_codec(config.init_from)
    if not isinstance(source, BuiltinCodec):
        raise UserError(f"init_from={config.init_from}: stage codec starts from builtin, or a folder that it wrote")
    if settings.latent_channels in (0, source.latent_channels):
        return source.train(), False
    codec = BuiltinCodec(dataclasses.replace(source.spec, latent_channels=settings.latent_channels))
    codec.decoder.load_state_dict(source.decoder.state_dict())
    return codec, True
