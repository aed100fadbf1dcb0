"""What happens beside the steps: checkpoints, stopping on request, generated audio in TensorBoard."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from PIL import Image

from impact_pl.audio import spectrogram_png
from impact_pl.codec import AudioCodec, load_codec
from impact_pl.config import DecodingConfig
from impact_pl.data.shards import collate
from impact_pl.training.checkpoint import save_checkpoint
from impact_pl.training.log import TrainingLog
from impact_pl.training.signals import StopSignal

NUM_CLIPS = 2  # generated each time


class Checkpoints(Callback):
    """Saves every ``every`` steps, at the end, and when a signal has asked for it; it stands last among the callbacks.

    Only right after an optimizer step: what a checkpoint holds is then the same however it came about. A signal on any
    rank stops all ranks at the same step.
    """

    def __init__(self, path: Path, every: int, stop: StopSignal):
        self.path, self.every, self.stop = path, every, stop
        self.stopped = False  # by a signal, on this or another rank
        self._saved_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.stop.install()  # Lightning has wrapped our SIGTERM handler by now
        self._step = self._saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            return  # in the middle of an accumulation
        self._step = trainer.global_step
        self.stopped = trainer.strategy.reduce_boolean_decision(self.stop.requested, all=False)
        is_due = self.every > 0 and self._step % self.every == 0
        if is_due or self.stopped or self._step == trainer.max_steps:
            save_checkpoint(trainer, self.path)
            self._saved_step = self._step
        if self.stopped and self._step < trainer.max_steps:
            trainer.limit_val_batches = 0  # or Lightning would validate once more before it stops
            trainer.should_stop = True


class AudioSamples(Callback):
    """Every ``every`` steps, clips from the averaged weights with their log-mel pictures, always from the same seed.

    With text, the captions are the first of the validation set (or of the training set without one).
    """

    def __init__(self, log: TrainingLog, every: int, decoding: DecodingConfig):
        self.training_log = log  # `log` is a name that Lightning sets on callbacks
        self.every, self.decoding = every, decoding
        self._codec: AudioCodec | None = None
        self._step = -1

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step != self._step and step % self.every == 0:
            self._write(trainer, pl_module)
        self._step = step

    def _write(self, trainer: Trainer, pl_module: Any) -> None:
        model, data = pl_module.ema.model, pl_module.data
        dataset = data.valid_set if data.num_valid_batches else data.train_set
        batch = collate([dataset[i] for i in range(min(NUM_CLIPS, len(dataset)))])
        moments, captions = batch["moments"], batch["captions"]
        text = trainer.strategy.batch_to_device(batch["text"]) if model.spec.text_features else None
        generator = torch.Generator(pl_module.device).manual_seed(0)
        latents = model.generate(text, moments.shape[2], len(moments), self.decoding, generator)
        if self.training_log.tensorboard is None:
            return  # not rank zero
        codec = self._load_codec(model.spec.codec)
        waveforms = codec.decode(latents.cpu().float())
        for i, waveform in enumerate(waveforms):
            title = captions[i] if text is not None else "without text"
            self._write_clip(f"sample/{i}", waveform.nan_to_num(), codec.sample_rate, title, trainer.global_step)

    def _load_codec(self, codec: dict[str, Any]) -> AudioCodec:
        if self._codec is None:
            self._codec = load_codec(codec["name"])
            if self._codec.identity != codec["identity"]:
                raise ValueError(
                    f"the shards were made by codec {codec['name']}/{codec['identity']}, but the installed one is "
                    f"{self._codec.identity}: precompute them again, or set trainer.sample_every_steps=0"
                )
        return self._codec

    def _write_clip(self, tag: str, waveform: torch.Tensor, rate: int, title: str, step: int) -> None:
        assert self.training_log.tensorboard is not None
        writer = self.training_log.tensorboard.writer
        writer.add_audio(tag, waveform[None].clamp(-1, 1), step, sample_rate=rate)
        picture = io.BytesIO()
        spectrogram_png(waveform, rate, picture, title=title)
        picture.seek(0)
        writer.add_image(tag, np.asarray(Image.open(picture).convert("RGB")), step, dataformats="HWC")
        writer.add_text(tag, title, step)
