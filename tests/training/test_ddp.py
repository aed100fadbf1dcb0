"""Two processes do the training that one process does with two micro-batches a step; signals reach both."""

import copy
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from impact_pl.cli.compose import compose
from impact_pl.config import TrainConfig
from impact_pl.training.checkpoint import read_checkpoint
from impact_pl.training.fit import train
from tests.helpers.launch import command

START = 300  # seconds that a start may take on a busy machine


def start(config: TrainConfig, variables: dict[str, str] | None = None) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (variables or {})
    return subprocess.Popen(
        command(config), env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_for_rows(process: subprocess.Popen, metrics: Path, count: int = 10) -> None:
    deadline = time.monotonic() + START
    while not metrics.exists() or metrics.read_text().count("\n") < count:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    return read_checkpoint(Path(config.runs_dir) / config.name / "checkpoints" / "last.ckpt")["state_dict"]


@pytest.fixture
def two(config) -> TrainConfig:
    two = copy.deepcopy(config)
    two.name, two.trainer.devices, two.trainer.strategy = "two", 2, "ddp"
    two.optim.lr = 1e-3
    return two


def test_command_line_means_the_configuration(two):
    read = compose("train", TrainConfig, command(two)[4:])
    assert dataclasses.asdict(read) | {"optim": None} == dataclasses.asdict(two) | {"optim": None}


def test_two_processes_equal_one_with_two_micro_batches(config, two):
    """Same slots, same noise, masks and dropout: only the order of float32 sums differs."""
    process = start(two)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert output.count("trained to 6 steps") == 1  # rank one is quiet
    one = copy.deepcopy(config)
    one.optim.lr, one.trainer.accumulate_grad_batches = 1e-3, 2
    assert train(one).exit_code == 0
    expected = weights(one)
    for name, value in weights(two).items():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=2e-5), name
    text = [(Path(config.runs_dir) / name / "metrics.csv").read_text().splitlines() for name in ("run", "two")]
    for row, other in zip(*text, strict=True):
        for i, (mine, its) in enumerate(zip(row.split(","), other.split(","), strict=True)):
            if not text[0][0].split(",")[i].startswith("usage/"):
                assert mine == its or float(mine) == pytest.approx(float(its), rel=1e-4)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_training_continues(two):
    two.trainer.max_steps, two.trainer.log_every_steps = 100_000, 1
    process = start(two)
    wait_for_rows(process, Path(two.runs_dir) / "two" / "metrics.csv")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 143, output
    step = read_checkpoint(Path(two.runs_dir) / "two" / "checkpoints" / "last.ckpt")["global_step"]
    assert f"stopped at step {step}, saved" in output
    two.trainer.max_steps = step + 2
    process = start(two)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert f"resuming {Path(two.runs_dir) / 'two'} at step {step}" in output


@pytest.mark.slow
def test_every_rank_has_the_exit_code_of_the_stop(two):
    """Ranks that something other than Lightning and SLURM started; one of them gets the signal."""
    two.trainer.max_steps, two.trainer.log_every_steps = 100_000, 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [start(two, common | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    wait_for_rows(ranks[0], Path(two.runs_dir) / "two" / "metrics.csv")
    ranks[1].send_signal(signal.SIGTERM)
    outputs = [rank.communicate(timeout=60)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [143, 143], outputs


@pytest.mark.slow
def test_two_trainings_in_one_script(two, tmp_path):
    """Lightning starts rank one in the first; the second finds it there."""
    script = tmp_path / "twice.py"
    script.write_text(
        "import sys\n"
        "from impact_pl.cli.compose import compose\n"
        "from impact_pl.config import TrainConfig\n"
        "from impact_pl.training.fit import train\n"
        "for steps in (2, 4):\n"
        "    config = compose('train', TrainConfig, [*sys.argv[1:], f'trainer.max_steps={steps}'])\n"
        "    assert train(config).step == steps\n"
    )
    overrides = [one for one in command(two)[4:] if not one.startswith("trainer.max_steps")]
    result = subprocess.run([sys.executable, script, *overrides], text=True, capture_output=True, timeout=180)
    assert result.returncode == 0, result.stderr
    assert "trained to 4 steps" in result.stdout


@pytest.mark.slow
def test_signals_before_the_handlers_and_after_the_last_step(config):
    """As slurm/train.sh starts it, with signals blocked: an early one stops in good order, a late one does not kill."""
    hold = ["env", "--block-signal=USR1,TERM", *command(config)]
    process = subprocess.Popen(hold, stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)  # Python has hardly begun
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 138
    assert "stopped before the first step" in output
    process = subprocess.Popen(hold, stdout=subprocess.PIPE, text=True)
    while "trained to" not in (line := process.stdout.readline()):
        assert line
    while process.poll() is None:
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.005)
    assert process.returncode == 0
