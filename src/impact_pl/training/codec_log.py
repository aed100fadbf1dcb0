"""What the codec's training writes down, and when."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from impact_pl.training.sinks import file_sinks, terminal_sink

FIGURES = ("train/lr", "train/gradient_norm", "throughput/clips_per_second", "throughput/seconds_per_step")


class CodecLog(Callback):
    """Loss, learning rate, gradient norm and speed every ``every`` steps: metrics.csv, TensorBoard, terminal."""

    def __init__(self, run_dir: Path, every: int, batch_size: int):
        self.run_dir, self.every, self.batch_size = run_dir, max(1, every), batch_size
        self._validation_owed = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._validation_owed = checkpoint["callbacks"]["Checkpoints"]["validation_owed"]

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        step = trainer.global_step
        columns = ["train/loss", *FIGURES, "valid/loss"]
        self._terminal = terminal_sink(trainer.max_steps, step)
        metrics, self._tensorboard = file_sinks(self.run_dir, columns, step, self._validation_owed)
        self._sinks: list[Any] = [metrics, self._tensorboard, self._terminal]
        self._losses: list[Tensor] = []
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        self._losses.append(outputs["loss"].detach())
        self._terminal.advance(step)
        if step % self.every and step < trainer.max_steps:
            return
        seconds = (time.perf_counter() - self._started) / len(self._losses)
        values = (pl_module.last_lr, pl_module.gradient_norm, self.batch_size / seconds, seconds)
        self._write(
            step, {"train/loss": float(torch.stack(self._losses).mean()), **dict(zip(FIGURES, values, strict=True))}
        )
        self._losses, self._started = [], time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._write(trainer.global_step, {"valid/loss": pl_module.valid_loss})

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._tensorboard.writer.flush()

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        for sink in self.__dict__.pop("_sinks", []):
            sink.close()

    def _write(self, step: int, values: dict[str, float]) -> None:
        for sink in self._sinks:
            sink.write(step, values)
