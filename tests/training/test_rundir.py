"""Two trainings of one name: the second waits a while, and is refused; a kill leaves no lock behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from impact_pl.training import process
from impact_pl.training.fit import train
from impact_pl.training.process import only_training

# Holds the run directory, with a forked child (as a DataLoader worker is) that outlives it.
HOLDER = """
import os, sys, time
from pathlib import Path
from impact_pl.training.process import only_training

with only_training(Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(config):
    run_dir = Path(config.runs_dir) / config.name
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(run_dir)], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    subprocess.run(["kill", "-9", str(child)])


def test_a_second_training_of_the_same_name_is_refused(config, holder, monkeypatch, capsys):
    monkeypatch.setattr(process, "PATIENCE", 0.5)
    with pytest.raises(ValueError, match=r"another training is running in .*runs/run \(the same name"):
        train(config)
    assert capsys.readouterr().out.count("waiting for another training") == 1
    assert [path.name for path in (Path(config.runs_dir) / config.name).iterdir()] == ["lock"]


def test_a_killed_one_leaves_the_directory_free_at_once(config, holder, monkeypatch):
    monkeypatch.setattr(process, "PATIENCE", 0)
    holder.kill()
    holder.wait()
    assert train(config).exit_code == 0


def test_only_rank_zero_holds_the_lock(config, holder, monkeypatch):
    monkeypatch.setattr(process.rank_zero_only, "rank", 1)
    with only_training(Path(config.runs_dir) / config.name):
        pass


def test_a_directory_that_nothing_was_written_to_is_removed(tmp_path):
    with only_training(tmp_path / "group" / "run"):
        assert (tmp_path / "group" / "run" / "lock").is_file()
    assert not (tmp_path / "group" / "run").exists()


def test_without_locks_the_training_goes_on(tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(process.fcntl, "lockf", unsupported)
    with only_training(tmp_path / "run"):
        assert "no locks here (Operation not supported)" in capsys.readouterr().out


@pytest.mark.parametrize(("tasks", "devices"), [(2, 1), (1, 2)])
def test_a_job_step_needs_one_task_a_rank(config, monkeypatch, tasks, devices):
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_NTASKS", str(tasks))
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    config.trainer.devices = devices
    with pytest.raises(ValueError, match=rf"SLURM started {tasks} task.* are {devices} rank.*--ntasks={devices}"):
        train(config)
    assert not Path(config.runs_dir).exists()


def test_in_an_interactive_job_only_its_first_task_trains(config, monkeypatch):
    """Lightning takes no notice of the tasks of a job that is named so: each would be rank zero."""
    for name, value in {"STEP_ID": "0", "NTASKS": "2", "PROCID": "1", "JOB_NAME": "interactive"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(ValueError, match="srun --job-name=train"):
        train(config)
    monkeypatch.setenv("SLURM_PROCID", "0")
    config.trainer.max_steps = 1
    assert train(config).exit_code == 0


@pytest.mark.parametrize(
    ("environment", "devices", "said"),
    [
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}, 1, "torchrun started 2 proc"),
        ({"WORLD_SIZE": "4"}, 1, r"WORLD_SIZE=4, but .* are 1 rank.*unset WORLD_SIZE"),
        ({"LOCAL_RANK": "1"}, 2, "LOCAL_RANK=1, but .* are 2 rank.*unset LOCAL_RANK"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train"}, 2, "write srun before the command"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"}, 2, "SLURM started 1 task"),
    ],
)
def test_every_launcher_starts_one_process_per_rank(config, monkeypatch, environment, devices, said):
    """Refused in one line, before the lock, on every rank."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config.trainer.devices = devices
    with pytest.raises(ValueError, match=said):
        train(config)
    assert not Path(config.runs_dir).exists()
