"""Kill a training with SIGKILL at random moments, restart it each time, and compare it with an uninterrupted one.

    python -m lab.trials.kill_training [--trials 30] [--strategy auto|ddp|fsdp2] [--launcher torchrun] [--seed 0]

Prints a table of the trials in Markdown and a verdict; the exit code is 1 if anything was lost. Kills hit start-up,
steps, checkpointing, validation and export; the phase is determined from the files left behind.
"""

import argparse
import contextlib
import csv
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from impact_pl.config import ModelConfig
from impact_pl.training.checkpoint import find_checkpoint, read_checkpoint
from lab.benchmark.data import random_shards
from lab.cards.scaling import planned_spec

CHECKPOINT, VALIDATE, STEPS_A_TRIAL = 12, 18, 36
# Maximum seconds from the observed start of a phase to the kill; "end" begins with the last step.
DELAYS = {"start-up": 6.0, "steps": 0.2, "checkpoint": 0.002, "validation": 0.01, "end": 0.3}
# Without one, Lightning starts the second rank. torchrun itself is killed too, and with it its restarts.
LAUNCHERS = {
    "none": (),
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=0"),
}
STATE = ("state_dict", "optimizer_states", "lr_schedulers", "LatentDataModule", "global_step")


class Training:
    """A run directory, and the command that starts or resumes it."""

    def __init__(self, runs: Path, name: str, latents: Path, strategy: str, launcher: str, steps: int):
        self.folder, self.steps = runs / name, steps
        trainer = "cpu" if strategy == "auto" else strategy
        self.command = [
            *(sys.executable, *LAUNCHERS[launcher], "-m", "impact_pl", "train"),
            *("experiment=text", "model=tiny", f"trainer={trainer}", "trainer.accelerator=cpu"),
            *("trainer.precision=32-true", "init_from=", f"runs_dir={runs}", f"name={name}"),
            *(f"data.path={latents}", "data.batch_size=4", "data.num_workers=0", "optim.ema_decay=0.9"),
            *("model.dropout=0.1", "trainer.log_every_steps=1", "trainer.sample_every_steps=0"),
            *(f"trainer.max_steps={steps}", f"trainer.validate_every_steps={VALIDATE}"),
            f"trainer.checkpoint_every_steps={CHECKPOINT}",
        ]

    def start(self) -> subprocess.Popen:
        with (self.folder.parent / "output.txt").open("a") as output:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            return subprocess.Popen(self.command, env=environment, stdout=output, stderr=output, start_new_session=True)

    def finish(self) -> None:
        code = self.start().wait()
        if code:
            sys.exit(f"the training failed with exit code {code}: see {self.folder.parent / 'output.txt'}")

    def rows(self) -> list[dict[str, str]]:
        """Read metrics.csv without machine-dependent columns."""
        file = self.folder / "metrics.csv"
        rows = list(csv.DictReader(file.open())) if file.exists() else []
        return [{key: row[key] for key in row if not key.startswith("usage/")} for row in rows]

    def last_row(self) -> tuple[int, bool]:
        """Return the last logged step, and whether it is a validation's (valid/loss is the last column)."""
        file = self.folder / "metrics.csv"
        if not file.exists():
            return 0, False
        with file.open("rb") as content:
            content.seek(max(0, file.stat().st_size - 1000))
            last = content.read().decode().splitlines()[-1].split(",")
        return (0, False) if last[0] == "step" else (int(last[0]), bool(last[-1]))

    @property
    def checkpoint(self) -> Path:
        return find_checkpoint(self.folder)

    def saved_step(self) -> int:
        return read_checkpoint(self.checkpoint)["global_step"] if self.checkpoint.exists() else 0

    def partial(self, phase: str) -> Path:
        """Return the path that an interrupted save leaves behind."""
        name = "model" if phase == "export" else "checkpoints/last.ckpt"
        return self.folder / f"{name}.partial"


def kill_once(training: Training, phase: str, from_step: int, moments: random.Random) -> tuple[str, int]:
    """Start the training and kill it in ``phase`` (or shortly after), at ``from_step`` or later.

    Returns:
        What it was doing, and the last step that it logged.
    """
    started, begin = time.time(), training.saved_step()
    process = training.start()
    if phase != "start-up":
        while process.poll() is None and not is_in(training, phase, begin, from_step, started):
            time.sleep(0.0003)
    time.sleep(moments.uniform(0, DELAYS[phase]))
    assert process.poll() is None or phase == "end", f"the training ended before its kill, with {process.returncode}"
    with contextlib.suppress(ProcessLookupError):  # a small training ends quickly
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    step, is_validation = training.last_row()
    if code == 0:
        return "after the end", step
    for name in ("export", "checkpoint"):
        if is_new(training.partial(name), started):
            return name, step
    if step > begin:
        return ("validation" if step % VALIDATE == 0 and not is_validation else "steps"), step
    return "start-up", begin


def is_in(training: Training, phase: str, begin: int, from_step: int, started: float) -> bool:
    step, is_validation = training.last_row()
    if step <= begin or step < from_step:
        return False
    if phase == "end":
        return step == training.steps
    if step > max(begin, from_step) + STEPS_A_TRIAL // 2:
        return True  # the phase was missed
    if phase == "checkpoint":
        return is_new(training.partial(phase), started)
    return phase == "steps" or (step % VALIDATE == 0 and not is_validation)


def is_new(path: Path, since: float) -> bool:
    try:
        return path.stat().st_mtime >= since
    except FileNotFoundError:
        return False


def differences(killed: Training, undisturbed: Training) -> list[str]:
    """List the differences caused by the kills; empty if none."""
    found = []
    one, other = (read_checkpoint(training.checkpoint) for training in (killed, undisturbed))
    found += [f"checkpoint: {key}" for key in STATE if not is_same(one.get(key), other.get(key))]
    models = [(training.folder / "model" / "model.safetensors").read_bytes() for training in (killed, undisturbed)]
    found += ["model.safetensors"] if models[0] != models[1] else []
    found += ["metrics.csv"] if killed.rows() != undisturbed.rows() else []
    events = EventAccumulator(str(killed.folder), size_guidance={"scalars": 0}).Reload()
    for tag, every in (("train/loss", 1), ("valid/loss", VALIDATE)):
        if [event.step for event in events.Scalars(tag)] != list(range(every, killed.steps + 1, every)):
            found.append(f"TensorBoard: {tag} lacks steps or has some twice")
    return found


def is_same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(is_same(*pair) for pair in zip(one, other, strict=True))
    return one == other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--strategy", choices=["auto", "ddp", "fsdp2"], default="auto")
    parser.add_argument("--launcher", choices=list(LAUNCHERS), default="none", help="with strategy ddp or fsdp2")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.launcher == "torchrun" and args.strategy == "auto":
        parser.error("torchrun starts two processes: --strategy ddp or fsdp2")
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns about every purge
    began, moments = time.monotonic(), random.Random(args.seed)
    folder = Path(tempfile.mkdtemp(prefix="kill-training-"))
    spec, latents = planned_spec(ModelConfig()), folder / "latents"
    for split, clips in {"train": 50, "valid": 5}.items():
        random_shards(latents, spec, num_frames=8, clips=clips, split=split)
    ends = args.trials // 8
    steps = STEPS_A_TRIAL * (args.trials - ends + 1)
    undisturbed, killed = (
        Training(folder, name, latents, args.strategy, args.launcher, steps) for name in ("undisturbed", "killed")
    )
    undisturbed.finish()
    print(f"{args.trials} kills of a training of {steps} steps, strategy {args.strategy}, launcher {args.launcher}, a")
    print(
        f"checkpoint every {CHECKPOINT} steps and a validation every {VALIDATE} steps; seed {args.seed}; in {folder}\n"
    )
    print("| trial | killed in | at step | resumes at | steps repeated |\n|---|---|---|---|---|")
    for trial in range(args.trials):
        phase = "end" if trial >= args.trials - ends else moments.choice([name for name in DELAYS if name != "end"])
        met, step = kill_once(killed, phase, trial * STEPS_A_TRIAL, moments)
        saved = killed.saved_step()
        print(f"| {trial + 1} | {met} | {step} | {saved} | {step - saved} |", flush=True)
    killed.finish()
    found = differences(killed, undisturbed)
    print(f"\n{time.monotonic() - began:.0f} s. ", end="")
    print(
        f"LOST OR CHANGED: {'; '.join(found)}" if found else "Nothing lost: weights, EMA, optimizer and model are equal"
    )
    if not found:
        print("to the undisturbed run's bit for bit, metrics.csv line by line; TensorBoard has every step once.")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
