"""torchrun starts a training's processes, and starts them again after one was killed."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from impact_pl.training.process import TorchrunEnvironment, cluster_plugins

START = 300  # seconds that a start may take on a busy machine
STEPS = 120


def test_the_store_of_an_attempt_is_not_the_agents(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "29500")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    (environment,) = cluster_plugins()
    assert isinstance(environment, TorchrunEnvironment)
    assert os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "False"
    monkeypatch.setenv("MASTER_PORT", str(environment.main_port))  # as Lightning does before it makes the group
    assert environment.main_port == 29501


def arguments(latents: Path, name: str, runs: Path) -> list[str]:
    return [
        *("-m", "impact_pl", "train", "experiment=pretrain", "model=tiny", "trainer=ddp", "trainer.devices=2"),
        *("trainer.accelerator=cpu", "trainer.precision=32-true", f"data.path={latents}", "data.batch_size=4"),
        *("data.num_workers=0", f"name={name}", f"runs_dir={runs}", f"trainer.max_steps={STEPS}"),
        *("trainer.log_every_steps=1", "trainer.validate_every_steps=0", "trainer.checkpoint_every_steps=4"),
        *("trainer.stall_minutes=2", "logger=csv"),
    ]


def losses(metrics: Path) -> dict[str, str]:
    with metrics.open() as file:
        return {row["step"]: row["train/loss"] for row in csv.DictReader(file)}


def worker(agent: int, rank: int) -> int:
    """The process that torchrun started as ``rank``."""
    for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"torchrun has no rank {rank}")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("is_training", [pytest.param(False, marks=pytest.mark.slow), True])
def test_ranks_end_with_torchrun(random_latents, tmp_path, is_training):
    """torchrun is killed before or after its ranks have found each other: none stays behind."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, *arguments(random_latents, "orphans", tmp_path), "trainer.max_steps=100000"]
    log = tmp_path / "output.txt"
    with log.open("w") as output:
        agent = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=output, stderr=output)
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
    deadline = time.monotonic() + START
    while len(children.read_text().split()) < 2 or (is_training and "step 1" not in log.read_text()):
        assert agent.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    ranks = [Path("/proc", pid) for pid in children.read_text().split()]
    agent.kill()
    agent.wait()
    deadline = time.monotonic() + 60
    while any(rank.exists() for rank in ranks):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_rank_is_started_again(random_latents, tmp_path):
    """Rank 1 and then rank 0 are killed: the run finishes with the losses of an undisturbed one."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments(random_latents, "whole", tmp_path)], env=environment, check=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    log, metrics = tmp_path / "output.txt", tmp_path / "killed" / "metrics.csv"
    with log.open("w") as output:
        command = [*launcher, *arguments(random_latents, "killed", tmp_path)]
        agent = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        for rank, step in ((1, 10), (0, 40)):
            deadline = time.monotonic() + START
            while not metrics.exists() or metrics.read_text().count("\n") < step:
                assert agent.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            os.kill(worker(agent.pid, rank), signal.SIGKILL)
        assert agent.wait(timeout=START) == 0, log.read_text()
    finally:
        agent.terminate()
        agent.wait(timeout=60)
    assert log.read_text().count("resuming") == 2
    assert losses(metrics) == losses(tmp_path / "whole" / "metrics.csv")
    assert len(losses(metrics)) == STEPS
