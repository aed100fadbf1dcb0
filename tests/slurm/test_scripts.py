"""What of slurm/ can be tested without a cluster."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.slurm import ROOT

SCRIPTS = [*sorted((ROOT / "slurm").glob("*.sh")), ROOT / "tests" / "slurm" / "cluster.sh"]


def test_shellcheck_finds_nothing():
    shellcheck = Path(sys.executable).with_name("shellcheck")  # of the extra [dev]
    done = subprocess.run([shellcheck, *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def chain(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "slurm" / "chain.sh"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_chain_says_what_it_would_submit(sounds):
    done = chain(
        *("--dry-run", f"manifest={sounds}", "name=mine", "model=nano", "precompute.clip_seconds=2.56"),
        *("pretrain.experiment=demo_pretrain", "evaluate.iterations=8"),
    )
    assert done.returncode == 0, done.stderr
    precompute, pretrain, text, evaluate = done.stdout.splitlines()
    assert "--array=" in precompute
    assert precompute.endswith(f"precompute.sh manifest={sounds} out=runs/mine/latents clip_seconds=2.56")
    assert "--dependency=afterok:<precompute>" in pretrain
    assert pretrain.endswith(
        "data.path=runs/mine/latents runs_dir=runs model=nano experiment=demo_pretrain name=mine/pretrain"
    )
    assert "--dependency=afterok:<pretrain>" in text
    assert text.endswith("model=nano experiment=text init_from=runs/mine/pretrain name=mine/text")
    assert "--dependency=afterok:<text>" in evaluate
    assert evaluate.endswith(f"manifest={sounds} model=runs/mine/text/model out=runs/mine iterations=8")


def test_the_chain_stays_in_its_runs_dir(sounds):
    done = chain("--dry-run", f"manifest={sounds}", "name=mine", "runs_dir=/scratch/runs")
    precompute, pretrain, text, evaluate = done.stdout.splitlines()
    assert " out=/scratch/runs/mine/latents" in precompute
    for training in (pretrain, text):
        assert " data.path=/scratch/runs/mine/latents runs_dir=/scratch/runs " in training
    assert " init_from=/scratch/runs/mine/pretrain " in text
    assert evaluate.endswith(" model=/scratch/runs/mine/text/model out=/scratch/runs/mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["name=x"], "manifest=FILE name=NAME"),
        (["name=x", "manifest=/nowhere.jsonl"], "no such file"),
        (["dry-run"], "expected KEY=VALUE"),
    ],
)
def test_mistakes_in_the_chains_arguments(arguments, message):
    done = chain(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def run_job(folder: Path, script: str, srun: str, job: str) -> tuple[int, list[str]]:
    """Run a job's script with a srun of ours; returns its exit code and what it asks scontrol."""
    shutil.copytree(ROOT / "slurm", folder / "slurm")
    with (folder / "slurm" / "env.sh").open("a") as file:
        file.write("case $NOT_SET_BEFORE_CONDA in x) ;; esac\n")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "srun").write_text(f"#!/bin/sh\n{srun}\n")
    (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\necho "{job}"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "8",
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "3",
    }
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=environment, text=True)
    asked = folder / "asked"
    return done.returncode, asked.read_text().splitlines() if asked.exists() else []


@pytest.mark.parametrize(
    ("code", "job", "requeued"),
    [
        (0, "JobState=RUNNING PreemptTime=2026-01-01T00:00:00", False),
        (2, "JobState=RUNNING PreemptTime=None", False),
        (138, "JobState=RUNNING PreemptTime=None", True),
        (142, "JobState=RUNNING PreemptTime=None", True),
        (143, "JobState=RUNNING PreemptTime=2026-01-01T00:00:00", True),
        (143, "JobState=COMPLETING PreemptTime=2026-01-01T00:00:00", False),
        (143, "JobState=RUNNING PreemptTime=None", False),
        (138, "JobState=CANCELLED PreemptTime=None", False),
        (138, "JobState=COMPLETING PreemptTime=None", False),
        (1, "JobState=RUNNING PreemptTime=2026-01-01T00:00:00", False),
        (2, "JobState=RUNNING PreemptTime=2026-01-01T00:00:00", False),
    ],
)
def test_when_a_job_is_requeued(tmp_path, code, job, requeued):
    """Array tasks by their own name, and never a job that is finished, failed or cancelled."""
    exit_code, asked = run_job(tmp_path, "source slurm/job.sh; step x", f"exit {code}", job)
    assert exit_code == code
    assert ("requeue 7_3" in asked) == requeued


def test_a_job_that_always_stalls_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "10")
    exit_code, asked = run_job(tmp_path, "source slurm/job.sh; step x", "exit 142", "JobState=RUNNING PreemptTime=None")
    assert exit_code == 142
    assert "requeue 7_3" not in asked


@pytest.mark.parametrize(
    "arguments", ["precompute.sh manifest=a.jsonl out=latents", "evaluate.sh model=model manifest=a.jsonl out=out"]
)
def test_programs_that_a_warning_ends_are_requeued(tmp_path, arguments):
    """They have no handler: SIGUSR1 ends them, and srun (like this shell) says 128 + its number."""
    assert "#SBATCH --signal=USR1@60\n" in (ROOT / "slurm" / arguments.split()[0]).read_text()
    warned = f"""{sys.executable} -c 'import os, signal; os.kill(os.getpid(), signal.SIGUSR1)'"""
    exit_code, asked = run_job(tmp_path, f"bash slurm/{arguments}", warned, "JobState=RUNNING PreemptTime=None")
    assert exit_code == 138
    assert asked[-1] == "requeue 7_3"
