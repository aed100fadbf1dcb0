"""Training of the built-in codec's decoder (`impact-train experiment=codec`).

The latents are principal components: fitted once at the start, or taken over with ``init_from``, and never trained. The
decoder learns on crops whose latents carry errors like a generator's: white, of up to ``latent_noise`` of the latents'
overall standard deviation.

All randomness of step n derives from (seed, n), and crops are drawn inside the step, so a run that continues from
last.ckpt goes on exactly where it stopped.

Dimension key: B batch, S samples of a crop, C latent channels, H latent frames.
"""

import math
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from impact_pl.audio import fit_length, load_audio
from impact_pl.codec_builtin import BuiltinCodec, BuiltinCodecSpec
from impact_pl.config import TrainConfig
from impact_pl.data.manifest import Record, read_manifest
from impact_pl.training.codec_loss import EnergyDistance
from impact_pl.training.ema import ExponentialMovingAverage

NUM_VALID_CROPS = 64
MAX_FIT_SECONDS = 10  # of a clip, for the principal components
MAX_CLIP_WEIGHT = 5.0  # seconds: a longer clip is drawn no more often than one of this length


class CodecTraining(L.LightningModule):
    """Energy-distance training of the decoder, with an EMA of its weights that is what gets exported.

    Args:
        codec: with fitted latents.
        clips: training waveforms, each (S_i,) int16.
        valid_clips: the same for validation; may be empty.
        cfg: the command's configuration.
    """

    def __init__(self, codec: BuiltinCodec, clips: list[Tensor], valid_clips: list[Tensor], cfg: TrainConfig):
        super().__init__()
        self.cfg = cfg
        self.codec = codec
        self.ema = ExponentialMovingAverage(codec.decoder, cfg.optim.ema_decay)
        self.distance = EnergyDistance(codec.sample_rate)
        self.clips, self.valid_clips = clips, valid_clips
        self.crop_samples = codec.samples_per_latent * round(
            cfg.codec.crop_seconds * codec.sample_rate / codec.samples_per_latent
        )

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        generator = Generator().manual_seed(self.cfg.seed * 1_000_003 + self.global_step)
        crops = draw_crops(self.clips, self.cfg.data.batch_size, self.crop_samples, generator)
        loss = self._loss(crops.to(self.device), generator)
        self.log("train/energy_distance", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Energy distance of the EMA decoder on fixed crops and noise."""
        generator = Generator().manual_seed(int(batch))
        crops = draw_crops(self.valid_clips, self.cfg.data.batch_size, self.crop_samples, generator)
        trained, self.codec.decoder = self.codec.decoder, self.ema.model
        loss = self._loss(crops.to(self.device), generator)
        self.codec.decoder = trained
        self.log("valid/energy_distance", loss, batch_size=len(crops), prog_bar=True)

    def _loss(self, crops: Tensor, generator: Generator) -> Tensor:
        """Energy distance for crops (B, S); a tenth of them keep clean latents."""
        with torch.autocast(self.device.type, enabled=False):
            latents = self.codec.latent_mean(crops)  # (B, C, H, 1)
        amount = (1.1 * torch.rand(len(crops), 1, 1, 1, generator=generator) - 0.1).clamp(min=0)
        errors = self.cfg.codec.latent_noise * amount * torch.randn(latents.shape, generator=generator)
        latents = latents + errors.to(latents) * self.codec.latent_std
        draws = self.codec.synthesize(torch.cat([latents, latents]), generator)  # (2B, S)
        with torch.autocast(self.device.type, enabled=False):
            return self.distance(crops, draws.float(), generator)

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.codec.decoder, self.global_step - 1)

    def configure_optimizers(self) -> dict:
        """AdamW; linear warm-up, then a cosine to zero at ``max_steps``."""
        optim, max_steps = self.cfg.optim, self.cfg.trainer.max_steps
        optimizer = torch.optim.AdamW(
            self.codec.decoder.parameters(), optim.lr, betas=tuple(optim.betas), weight_decay=optim.weight_decay
        )

        def factor(step: int) -> float:
            warmup = min(1.0, (step + 1) / max(1, optim.warmup_steps))
            return warmup * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / max_steps)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train_dataloader(self) -> DataLoader:
        """Step tickets only: the crops are drawn in ``training_step``."""
        return DataLoader(range(self.cfg.trainer.max_steps), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        num_batches = math.ceil(NUM_VALID_CROPS / self.cfg.data.batch_size) if self.valid_clips else 0
        return DataLoader(range(num_batches), batch_size=None)

    def export(self, folder: Path) -> None:
        """Write the codec, with the decoder's EMA weights, as a folder that ``load_codec`` reads."""
        trained, self.codec.decoder = self.codec.decoder, self.ema.model
        self.codec.save_pretrained(folder)
        self.codec.decoder = trained


def draw_crops(clips: list[Tensor], count: int, num_samples: int, generator: Generator) -> Tensor:
    """Random crops (count, num_samples) in [-1, 1] of clips (S_i,) int16, half of them up to 12 dB quieter.

    Clips are drawn in proportion to their length, with ``MAX_CLIP_WEIGHT`` at most; short ones are padded with silence.
    """
    weights = torch.tensor([float(len(clip)) for clip in clips]).clamp(max=MAX_CLIP_WEIGHT * 16_000)
    crops = []
    for index in torch.multinomial(weights, count, replacement=True, generator=generator).tolist():
        clip = clips[index]
        start = int(torch.randint(max(1, len(clip) - num_samples + 1), (1,), generator=generator))
        crops.append(fit_length(clip[start : start + num_samples].float() / 32768, num_samples))
    decibels = -24 * (torch.rand(count, 1, generator=generator) - 0.5).clamp(min=0)
    return torch.stack(crops) * 10 ** (decibels / 20)


def load_clips(records: list[Record], sample_rate: int) -> list[Tensor]:
    """All recordings in memory, each (S_i,) int16: an hour takes 115 MB."""
    waveforms = [load_audio(record.path, sample_rate, record.start, record.duration) for record in records]
    return [(waveform * 32767).round().to(torch.int16) for waveform in waveforms]


def train_codec(cfg: TrainConfig) -> Path:
    """Train, or go on training, the decoder on ``cfg.data.path`` (a manifest) and write ``runs/<name>/model``.

    Records of split ``train`` are trained on, those of ``valid`` (here or in none) validated on.

    Returns:
        The codec's folder.

    Raises:
        ValueError: no manifest, no training records, too little audio, or ``init_from`` is no codec.
    """
    if not cfg.data.path:
        raise ValueError("experiment=codec trains on recordings: give their manifest as data.path=manifest.jsonl")
    records = read_manifest(cfg.data.path)
    codec = _initial_codec(cfg)
    clips, valid_clips = (
        load_clips([record for record in records if record.split == split], codec.sample_rate)
        for split in ("train", "valid")
    )
    if not clips:
        raise ValueError(f"{cfg.data.path} holds no record of split 'train'")
    if not cfg.init_from:
        codec.fit_latents([clip[: MAX_FIT_SECONDS * codec.sample_rate].float() / 32768 for clip in clips])
    L.seed_everything(cfg.seed, verbose=False)
    module = CodecTraining(codec, clips, valid_clips, cfg)
    run_dir = Path(cfg.runs_dir) / cfg.name
    last = run_dir / "checkpoints" / "last.ckpt"
    trainer = _trainer(cfg, run_dir)
    trainer.fit(module, ckpt_path=str(last) if last.is_file() else None)
    module.export(run_dir / "model")
    return run_dir / "model"


def _initial_codec(cfg: TrainConfig) -> BuiltinCodec:
    """The codec that ``init_from`` names (latents and decoder are taken over), or a fresh one."""
    if cfg.init_from:
        return BuiltinCodec.from_pretrained(cfg.init_from).train()
    torch.manual_seed(cfg.seed)
    return BuiltinCodec(BuiltinCodecSpec(decoder_dim=cfg.codec.decoder_dim, decoder_depth=cfg.codec.decoder_depth))


def _trainer(cfg: TrainConfig, run_dir: Path) -> L.Trainer:
    trainer = cfg.trainer
    checkpoints = ModelCheckpoint(
        run_dir / "checkpoints", save_last=True, save_top_k=0, every_n_train_steps=trainer.checkpoint_every_steps
    )
    return L.Trainer(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        precision=trainer.precision if trainer.precision != "auto" else _default_precision(),  # type: ignore[arg-type]
        max_steps=trainer.max_steps,
        gradient_clip_val=cfg.optim.gradient_clip,
        log_every_n_steps=trainer.log_every_steps,
        val_check_interval=min(trainer.validate_every_steps, trainer.max_steps),
        num_sanity_val_steps=0,
        callbacks=[checkpoints, LearningRateMonitor("step")],
        logger=[TensorBoardLogger(run_dir, name="", version=""), CSVLogger(run_dir, name="", version="")],
        enable_progress_bar=True,
        enable_model_summary=False,
    )


def _default_precision() -> str:
    """bf16 on a GPU that computes in it, else float32 (bf16 crashes on virtual CPUs that only claim AMX)."""
    return "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"
