"""Training callbacks: checkpoints, stopping on request, and generated audio samples."""

import io
import signal
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from lightning import Callback, Trainer
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from impact_pl.audio import within_full_scale
from impact_pl.codecs.base import AudioCodec
from impact_pl.codecs.registry import load_codec
from impact_pl.config import DecodingConfig
from impact_pl.data.shards import collate
from impact_pl.errors import UserError
from impact_pl.hub import without_downloads
from impact_pl.inference.generate import generate
from impact_pl.spectrogram import spectrogram_png
from impact_pl.training.checkpoint import save_checkpoint
from impact_pl.training.loggers import tensorboard_writer
from impact_pl.training.process import StopSignal

NOTHING_TO_SAVE = "stopped before the first step; nothing to save"
NUM_CLIPS = 2  # clips per sampling


class TrainingStopped(Exception):
    """Raised after a signal, once all ranks have saved and leave ``fit`` together at the same step."""


def describe_stop(step: int) -> str:
    return f"stopped at step {step}, saved; the same command continues" if step else NOTHING_TO_SAVE


class Checkpoints(Callback):
    """Save checkpoints every ``every`` steps, at the end, and on a signal. Must be the last callback.

    Checkpoints are only written right after an optimizer step or after its validation. A checkpoint of step n therefore
    exists only when everything to be logged for step n is logged, or it states that its validation is pending. A signal
    on any rank stops all ranks at the same step; the very last step is completed with its validation instead.

    Raises:
        TrainingStopped: Leaves ``Trainer.fit`` after a signal.
    """

    def __init__(self, path: Path, every: int, stop: StopSignal):
        self.path, self.every, self.stop = path, every, stop
        self._validation_owed = self._due = self._validates = False
        self._step = 0  # the last optimizer step that was handled

    def state_dict(self) -> dict[str, bool]:
        return {"validation_owed": self._validation_owed}

    def load_state_dict(self, state_dict: dict[str, bool]) -> None:
        self._validation_owed = state_dict["validation_owed"]

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Accept signals from here on, and run the validation that a resumed checkpoint still lacks."""
        self.stop.release()
        self._step = trainer.global_step
        validation = trainer.fit_loop.epoch_loop.val_loop
        validation.setup_data()
        self._validates = not validation.skip
        if self._is_stop_agreed(trainer):
            self._leave(trainer)  # the last checkpoint, if any, is up to date
        if self._validation_owed and self._validates:
            self._due = True
            trainer.validating = True  # as Lightning does between two steps
            validation.run()
            trainer.training = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            return  # in the middle of an accumulation
        self._step = trainer.global_step
        is_last = self._step == trainer.max_steps
        batches = self._step * trainer.accumulate_grad_batches
        validation_follows = self._validates and batches % (trainer.val_check_batch or 1) == 0
        if self._is_stop_agreed(trainer) and not is_last:
            self._save(trainer, validation_owed=validation_follows)
            self._leave(trainer)
        self._due = is_last or (self.every > 0 and self._step % self.every == 0)
        if self._due and not validation_follows:
            self._save(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step < trainer.max_steps and self._is_stop_agreed(trainer):
            trainer.training = True
            self._save(trainer, validation_owed=True)
            self._leave(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self._due:
            self._save(trainer)

    def _is_stop_agreed(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self.stop.requested, all=False)

    def _save(self, trainer: Trainer, validation_owed: bool = False) -> None:
        self._validation_owed = validation_owed
        with torch.inference_mode(False):  # validation leaves inference mode on
            save_checkpoint(trainer, self.path)

    def _leave(self, trainer: Trainer) -> NoReturn:
        is_usr1 = trainer.strategy.reduce_boolean_decision(self.stop.signum == signal.SIGUSR1, all=False)
        self.stop.signum = signal.SIGUSR1 if is_usr1 else self.stop.signum or signal.SIGTERM
        raise TrainingStopped


class AudioSamples(Callback):
    """Generate clips from the averaged weights every ``every`` steps, always with the same seed.

    With text, the captions are the first of the validation set, or of the training set if there is none.
    """

    def __init__(self, every: int, decoding: DecodingConfig):
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
        batch = trainer.strategy.batch_to_device(collate([dataset[i] for i in range(min(NUM_CLIPS, len(dataset)))]))
        moments, captions = batch["moments"], batch["captions"]
        text = batch["text"] if model.spec.text_features else None
        generator = torch.Generator(pl_module.device).manual_seed(0)
        latents = model.within_forward(generate, text, moments.shape[2], len(moments), self.decoding, generator)
        writer = tensorboard_writer(trainer)
        if writer is None:
            return  # not rank zero, or another logger
        codec = self._load_codec(model.spec.codec)
        waveforms = codec.decode(latents.cpu().float())
        for i, waveform in enumerate(waveforms):
            title = captions[i] if text is not None else "without text"
            write_clip(writer, i, waveform.nan_to_num(), codec.sample_rate, title, trainer.global_step)

    def _load_codec(self, codec: dict[str, Any]) -> AudioCodec:
        if self._codec is None:
            with without_downloads():  # the shards name it
                self._codec = load_codec(codec["name"])
            if self._codec.identity != codec["identity"]:
                raise UserError(
                    f"the shards were made by codec {codec['name']}/{codec['identity']}, but the installed one is "
                    f"{self._codec.identity}: precompute them again, or set trainer.sample_every_steps=0"
                )
        return self._codec


def write_clip(writer: SummaryWriter, index: int, waveform: torch.Tensor, rate: int, title: str, step: int) -> None:
    """Write a clip as audio, picture and text, each under its own tag, because TensorBoard allows one kind per tag.

    On the page of time series, the pictures' group must sort after that of the losses.
    """
    writer.add_audio(f"audio/{index}", within_full_scale(waveform[None]), step, sample_rate=rate)
    picture = io.BytesIO()
    spectrogram_png(waveform, rate, picture, title=title)
    picture.seek(0)
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    writer.add_image(f"valid_spectrogram/{index}", pixels, step, dataformats="HWC")
    writer.add_text(f"caption/{index}", title, step)
