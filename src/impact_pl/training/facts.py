"""The first lines of every run: what is trained, on what, with which code."""

import subprocess
import time
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.nn import Module

import impact_pl
from impact_pl.training.slurm import describe_job
from impact_pl.training.start import say


def first_lines(trainer: Trainer, model: Module, stage: str, num_clips: int, batch_size: int) -> list[str]:
    """Args: ``num_clips`` of the training set; ``batch_size``: clips a process and micro-batch."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    global_batch = batch_size * trainer.world_size * trainer.accumulate_grad_batches
    lines = [
        f"stage {stage}: {millions:.3g} M parameters, {num_clips} clips, {global_batch} a step (global batch), "
        f"{trainer.max_steps} steps",
        f"{trainer.num_nodes} node(s), {trainer.world_size} rank(s) on {type(trainer.accelerator).__name__}, "
        f"{type(trainer.strategy).__name__}, precision {trainer.precision}",
        f"code {git_revision(Path(impact_pl.__file__))}, torch {torch.__version__}",
        describe_job(),
    ]
    return [line for line in lines if line]


@rank_zero_only
def announce(run_dir: Path, lines: list[str]) -> None:
    """Print them, and append them to the run directory's run.log, which has an entry for every start."""
    for line in lines:
        say(line)
    with (run_dir / "run.log").open("a", encoding="utf-8") as file:
        file.writelines(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n" for line in lines)


def git_revision(file: Path) -> str:
    """Commit of the checkout that ``file`` is tracked in, ``+changes`` added when anything tracked has been edited."""
    git = ["git", "-C", str(file.parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], check=True, capture_output=True)
        describe = [*git, "describe", "--always", "--exclude=*", "--dirty=+changes"]
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
