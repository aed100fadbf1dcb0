"""Measure a training run and log losses, learning rate, gradient norm, speed and memory."""

import itertools
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Callback, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.nn import Module

import impact_pl
from impact_pl.training.loggers import logger_versions, tensorboard_writer
from impact_pl.training.process import say


def first_lines(trainer: Trainer, model: Module, stage: str, num_clips: int, batch_size: int) -> list[str]:
    """Describe the training run in a few lines.

    Args:
        trainer: The trainer.
        model: The module in training.
        stage: Name of the stage.
        num_clips: Clips in the training set.
        batch_size: Clips per process and micro-batch.
    """
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    global_batch = batch_size * trainer.world_size * trainer.accumulate_grad_batches
    lines = [
        f"stage {stage}: {millions:.3g} M parameters, {num_clips} clips, {global_batch} per step (global batch), "
        f"{trainer.max_steps} steps",
        f"{trainer.num_nodes} node(s), {trainer.world_size} rank(s) on {type(trainer.accelerator).__name__}, "
        f"{type(trainer.strategy).__name__}, precision {trainer.precision}",
        f"code {git_revision(Path(impact_pl.__file__))}, torch {torch.__version__}",
        describe_job(),
    ]
    return [line for line in lines if line]


@rank_zero_only
def announce(run_dir: Path, lines: list[str]) -> None:
    """Print lines, and append them to the run directory's run.log, which has an entry for every start."""
    for line in lines:
        say(line)
    with (run_dir / "run.log").open("a", encoding="utf-8") as file:
        file.writelines(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n" for line in lines)


def describe_job() -> str:
    """Describe job, restart count and nodes; empty outside a job."""
    if not SLURMEnvironment.detect():
        return ""
    environment = os.environ
    job = environment.get("SLURM_JOB_ID", "unknown")
    if "SLURM_ARRAY_TASK_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    restarts = environment.get("SLURM_RESTART_COUNT", "0")
    return f"SLURM job {job}, restart {restarts}, on {environment.get('SLURM_JOB_NODELIST', 'unknown nodes')}"


def git_revision(file: Path) -> str:
    """Return the commit of the checkout that tracks ``file``, with ``+changes`` if tracked files are modified."""
    git = ["git", "-C", str(file.parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], check=True, capture_output=True)
        describe = [*git, "describe", "--always", "--exclude=*", "--dirty=+changes"]
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


MASK_RATIO_EDGES = (0.7, 0.8, 0.9)
MASK_RATIO_BUCKETS = ("below-0.7", "0.7-0.8", "0.8-0.9", "0.9-1.0")
NUM_TIMESTEP_BUCKETS = 4
# TensorBoard sorts groups, and tags in a group, by name. These names put loss and learning rate on its first screen.
MEASUREMENTS = (
    "train/lr",
    "train/total_grad_norm",
    "usage/clips_per_second",
    "usage/seconds_per_step",
    "usage/data_wait_share",
    "usage/peak_memory_gb",
)


class BucketMeans:
    """Mean loss since the last ``pop``: overall, by quarter of the diffusion time, and by mask ratio.

    Sums stay on the device, so that adding a batch does not synchronise. With float64 (if the device supports it) the
    means stay the same to all written digits when they pass through a checkpoint as the sum over ranks.
    """

    def __init__(self, num_timesteps: int | None, device: torch.device):
        edges = [(num_timesteps or 0) * i // NUM_TIMESTEP_BUCKETS for i in range(NUM_TIMESTEP_BUCKETS + 1)]
        self.names = bucket_names(num_timesteps) if num_timesteps else ["train/loss"]
        self._timestep_edges = torch.tensor(edges[1:-1], device=device)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums = torch.zeros(2, len(self.names), device=device, dtype=dtype)  # loss sums, counts

    def add(
        self,
        loss: Tensor,
        per_position: Tensor | None = None,
        timesteps: Tensor | None = None,
        mask_ratio: float | None = None,
    ) -> None:
        """Add the losses of one batch.

        Args:
            loss: Scalar.
            per_position: (K,), if any.
            timesteps: (K,), if any.
            mask_ratio: Mask ratio of the batch, if any.
        """
        finite = torch.isfinite(loss).to(self._sums)  # excludes skipped steps, see trainer.max_skipped_steps
        loss = loss.nan_to_num(0.0, 0.0, 0.0).to(self._sums)
        self._sums[:, 0] += torch.stack([loss * finite, finite])
        if mask_ratio is None:
            return
        if per_position is not None and timesteps is not None:
            per_position = per_position.nan_to_num(0.0, 0.0, 0.0).to(self._sums)
            bucket = 1 + torch.bucketize(timesteps, self._timestep_edges, right=True)
            self._sums[0].index_add_(0, bucket, per_position)
            self._sums[1].index_add_(0, bucket, finite.expand(len(per_position)))
        ratio_bucket = 1 + NUM_TIMESTEP_BUCKETS + sum(mask_ratio >= edge for edge in MASK_RATIO_EDGES)
        self._sums[0, ratio_bucket] += loss
        self._sums[1, ratio_bucket] += finite

    def pop(self, trainer: Trainer) -> dict[str, float]:
        """Return the means over all ranks (without empty buckets) and reset the sums."""
        sums, counts = self.over_ranks(trainer).tolist()
        self._sums.zero_()
        return {name: s / n for name, s, n in zip(self.names, sums, counts, strict=True) if n > 0}

    def over_ranks(self, trainer: Trainer) -> Tensor:
        """Sum over ranks: (2, buckets) loss sums and counts."""
        return torch.as_tensor(trainer.strategy.reduce(self._sums.clone(), reduce_op="sum"))

    def start_from(self, sums: Tensor) -> None:
        self._sums.copy_(sums)


def bucket_names(num_timesteps: int) -> list[str]:
    edges = [num_timesteps * i // NUM_TIMESTEP_BUCKETS for i in range(NUM_TIMESTEP_BUCKETS + 1)]
    by_timestep = [f"train_by_timestep/{low}-{high - 1}" for low, high in itertools.pairwise(edges)]
    return ["train/loss", *by_timestep, *(f"train_by_mask_ratio/{name}" for name in MASK_RATIO_BUCKETS)]


def metric_names(num_timesteps: int | None) -> list[str]:
    """List the columns of metrics.csv in order. Without diffusion times (the codec) there are no buckets."""
    losses = bucket_names(num_timesteps) if num_timesteps else ["train/loss"]
    return [*losses, *MEASUREMENTS, "valid/loss"]


class TrainingLog(Callback):
    """Log the mean loss since the last row, and other measurements, to all loggers every ``every`` steps.

    ``self.log`` is not used: the means of a row cover the steps since the last one, over all ranks and across an
    interruption, and a row is written before the checkpoint of its step. The module logs the validation loss.

    This must be the first callback. Time spent in other callbacks, in validation and in checkpoints does not count as
    training time.

    Args:
        every: Optimizer steps between two rows.
        num_timesteps: Diffusion timesteps, for the buckets; None: no buckets.
        clips_per_step: Global batch size.
        config: Training configuration as plain dicts, for loggers that display it.
    """

    def __init__(self, every: int, num_timesteps: int | None, clips_per_step: int, config: dict[str, Any]):
        self.every, self.num_timesteps, self.clips_per_step = max(1, every), num_timesteps, clips_per_step
        self.config = config
        self._seconds = self._waited = 0.0
        self._steps = 0
        self._resumed_sums: Tensor | None = None
        self._row: dict[str, float] = {}  # the last row, and its step
        self._row_step = -1
        self._validation_owed = False

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._means = BucketMeans(self.num_timesteps, pl_module.device)
        self._logged_step = trainer.global_step
        if trainer.is_global_zero and self._resumed_sums is not None:
            self._means.start_from(self._resumed_sums)
        if trainer.global_step == 0:  # MLflow rejects changes of logged parameters
            for logger in trainer.loggers:
                logger.log_hyperparams(self.config)
        writer = tensorboard_writer(trainer)
        if writer is not None:
            text = yaml.safe_dump(self.config, sort_keys=False).replace("\n", "\n    ")
            writer.add_text("config", f"    {text}", trainer.global_step)  # indented: a code block in Markdown
        if self._validation_owed and self._row_step == trainer.global_step:
            self._write(trainer, self._row)  # was dropped with the validation of its step, see build_loggers

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._started = time.perf_counter()
        waited = self._started - pl_module.batch_done_at
        self._waited += waited
        self._seconds += waited

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._means.add(**pl_module.last_losses)
        self._seconds += time.perf_counter() - self._started
        if trainer.global_step == self._logged_step:
            return  # in the middle of an accumulation
        self._logged_step = trainer.global_step
        self._steps += 1
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self._write(trainer, self._means.pop(trainer) | self._measure(trainer, pl_module))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Flush the loggers, so that no row is lost by a kill, and store the sums of steps since the last row."""
        checkpoint["loss_sums"] = self._means.over_ranks(trainer).cpu()
        checkpoint["last_row"] = {"step": self._row_step, "values": self._row}
        checkpoint["logger_versions"] = logger_versions(trainer)
        writer = tensorboard_writer(trainer)
        if writer is not None:
            writer.flush()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._resumed_sums = checkpoint["loss_sums"]
        self._row_step, self._row = checkpoint["last_row"]["step"], checkpoint["last_row"]["values"]
        self._validation_owed = checkpoint["callbacks"]["Checkpoints"]["validation_owed"]

    def _measure(self, trainer: Trainer, pl_module: Any) -> dict[str, float]:
        seconds = max(self._seconds, 1e-9)
        values = (
            pl_module.last_lr,
            pl_module.gradient_norm,
            self._steps * self.clips_per_step / seconds,
            seconds / self._steps,
            self._waited / seconds,
            float(trainer.strategy.reduce(peak_memory(pl_module.device), reduce_op="max")),
        )
        self._seconds = self._waited = 0.0
        self._steps = 0
        return dict(zip(MEASUREMENTS, values, strict=True))

    def _write(self, trainer: Trainer, values: dict[str, float]) -> None:
        self._row, self._row_step = values, trainer.global_step
        for logger in trainer.loggers:
            logger.log_metrics(values, trainer.global_step)


def peak_memory(device: torch.device) -> Tensor:
    """Measure the peak memory of this process in GB (10^9 bytes): allocated on the GPU, or resident on a CPU."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return torch.tensor(peak / 1e9, device=device)
