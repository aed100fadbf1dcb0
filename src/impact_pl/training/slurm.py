"""Training inside a SLURM job: how Lightning finds the other ranks, and what the log says about the job.

Requeueing is the job script's (slurm/job.sh): it sees from the exit code that a warning signal stopped the training.
"""

import os
from typing import Any

from lightning.pytorch.plugins.environments import SLURMEnvironment

from impact_pl.config import TrainerConfig
from impact_pl.errors import UserError


def cluster_plugins() -> list[Any]:
    """SLURM's environment inside a job step, without Lightning's own requeueing.

    Note:
        That one saves from inside the signal handler: ranks that are signalled apart wait for each other forever, and
        DataLoader workers overwrite the checkpoint (lightning issue 21406).
    """
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def check_tasks(config: TrainerConfig) -> None:
    """Whether a job step has a task for every rank: too many would each be the whole training, too few wait forever.

    Raises:
        ValueError: it has not.
    """
    if "SLURM_STEP_ID" not in os.environ:
        return
    if not SLURMEnvironment.detect():  # a shell for people, where Lightning starts its ranks by itself
        if os.environ["SLURM_PROCID"] != "0":
            raise UserError(
                f"in a job named {SLURMEnvironment.job_name()} every task is a training of its own: "
                "srun --job-name=train makes one of them all"
            )
        return
    tasks, ranks = int(os.environ["SLURM_NTASKS"]), config.devices * config.num_nodes
    if tasks != ranks:
        raise UserError(
            f"SLURM started {tasks} task(s), but trainer.devices={config.devices} on trainer.num_nodes="
            f"{config.num_nodes} are {ranks} rank(s): one task a device (srun --ntasks={ranks}), or set "
            "trainer.devices to the tasks of a node and trainer.num_nodes to the nodes"
        )


def describe_job() -> str:
    """Job, restart count and nodes; empty outside a job."""
    if not SLURMEnvironment.detect():
        return ""
    environment = os.environ
    job = environment.get("SLURM_JOB_ID", "unknown")
    if "SLURM_ARRAY_TASK_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    restarts = environment.get("SLURM_RESTART_COUNT", "0")
    return f"SLURM job {job}, restart {restarts}, on {environment.get('SLURM_JOB_NODELIST', 'unknown nodes')}"
