"""A SLURM cluster of two nodes on this machine to submit jobs to, and the training that the tests submit."""

import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEPS, VALIDATE, CHECKPOINT, LOG = 320, 32, 40, 4


class Cluster:
    """Submit jobs from the folder ``work``, which has its own slurm/ as a site would, and watch them."""

    def __init__(self, work: Path, state: Path):
        self.work, self.state = work, state
        shutil.copytree(ROOT / "slurm", work / "slurm")
        # `kill -USR2` makes any Python process of a job print where all its threads stand.
        (work / "sitecustomize.py").write_text("import faulthandler, signal; faulthandler.register(signal.SIGUSR2)\n")
        self.environment = os.environ | {
            "PYTHONPATH": f"{work}:{os.environ.get('PYTHONPATH', '')}",
            "SLURM_CONF": str(state / "slurm.conf"),
            "VENV": sys.prefix,
            "OMP_NUM_THREADS": "1",
            "PORT": str(random.randrange(20_000, 30_000, 10)),  # a cluster that was left behind may hold others
        }

    def run(self, *command: object) -> str:
        """Standard output of a command in ``work``; what goes wrong there is an error here."""
        done = subprocess.run(
            [str(part) for part in command], cwd=self.work, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def manage(self, verb: str, node: str = "") -> None:
        self.run("bash", ROOT / "tests" / "slurm" / "cluster.sh", verb, self.state, node)

    def set_options(self, **options: str) -> None:
        """Append to env.sh, as a site would."""
        with (self.work / "slurm" / "env.sh").open("a") as file:
            file.writelines(f"{name}=({value})\n" for name, value in options.items())

    def submit(self, *arguments: object) -> str:
        return self.run("sbatch", "--parsable", *arguments).strip()

    def facts(self, job: str) -> dict[str, str]:
        """JobState, ExitCode, Restarts, Reason, NodeList, ... of a job."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.run("scontrol", "show", "job", "--oneliner", job)))

    def wait(self, job: str, *states: str, timeout: float = 240) -> dict[str, str]:
        """Until the job is in one of the states."""
        in_state = lambda: facts if (facts := self.facts(job))["JobState"] in states else {}  # noqa: E731
        return until(in_state, timeout, lambda: self.explain(job))

    def explain(self, job: str) -> str:
        """Facts and log of a job, with the stacks of its Python processes at the end."""
        for process in [process for processes in self.ranks(job).values() for process in processes]:
            os.kill(process, signal.SIGUSR2)
        time.sleep(2)
        return f"{self.facts(job)}\n{self.log(job)}"

    def log(self, job: str) -> str:
        file = self.work / f"slurm-{job}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def metrics(self, name: str) -> list[dict[str, str]]:
        """Rows of a run's metrics.csv, without what depends on the machine."""
        file = self.work / "runs" / name / "metrics.csv"
        rows = list(csv.DictReader(file.open())) if file.exists() else []
        return [{key: row[key] for key in row if not key.startswith("usage/")} for row in rows]

    def step(self, name: str) -> int:
        """The last one that a run has logged."""
        rows = self.metrics(name)
        return int(rows[-1]["step"]) if rows else 0

    def ranks(self, job: str, program: str = "train") -> dict[int, list[int]]:
        """Processes of a job's subcommand of `impact` by rank, DataLoader workers included."""
        found: dict[int, list[int]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = dict(
                    pair.split("=", 1) for pair in (folder / "environ").read_text().split("\0") if "=" in pair
                )
                command = (folder / "cmdline").read_text()
            except (OSError, UnicodeDecodeError):
                continue
            if environment.get("SLURM_JOB_ID") == job and f"/impact\0{program}\0" in command:
                found.setdefault(int(environment["SLURM_PROCID"]), []).append(int(folder.name))
        return found


def until(condition: Callable, timeout: float, explain: Callable[[], str] = str):
    """The first true value of ``condition``."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout} s: {explain()}"
        time.sleep(0.1)
    return value


def two_nodes() -> list[str]:
    return ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2"]


def training(latents: Path, name: str, strategy: str = "ddp") -> list[str]:
    """What sbatch gets for a training of some ten seconds on two ranks."""
    return [
        *("slurm/train.sh", "experiment=pretrain", "model=tiny", f"trainer={strategy}", "trainer.accelerator=cpu"),
        *(f"name={name}", f"data.path={latents}", "data.batch_size=4", "data.num_workers=1", "optim.ema_decay=0.9"),
        *("trainer.precision=32-true", f"trainer.log_every_steps={LOG}", f"trainer.max_steps={STEPS}"),
        *(f"trainer.validate_every_steps={VALIDATE}", f"trainer.checkpoint_every_steps={CHECKPOINT}"),
        "trainer.stall_minutes=0.75",
    ]
