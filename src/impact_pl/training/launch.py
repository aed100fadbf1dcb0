"""Check how the processes of a training run were launched: by Lightning, torchrun or SLURM.

Requeueing is done by the job script (slurm/job.sh), which sees from the exit code that a warning signal stopped the
training.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from impact_pl.config import TrainerConfig
from impact_pl.errors import UserError


class TorchrunEnvironment(TorchElasticEnvironment):
    """torchrun's environment, with a store that lives as long as one attempt.

    Note:
        Under ``--max-restarts``, torch 2.13 gives all attempts the agent's store without a prefix, so that the ranks of
        a restart read the addresses of dead ones. ``TORCHELASTIC_RESTART_COUNT`` cannot serve as a prefix: an agent
        counts only the restarts that its own node caused, so two nodes would disagree. Here rank zero hosts a store at
        the port after torchrun's, which ends with its process; torchrun starts no attempt before the last one is dead.
    """

    def __init__(self) -> None:
        super().__init__()
        self._port = super().main_port + 1  # MASTER_PORT itself is used by torchrun's agent
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"

    @property
    def main_port(self) -> int:
        return self._port


def cluster_plugins() -> list[Any]:
    """Return the environment plugin for a SLURM job step, without Lightning's requeueing, or for torchrun.

    Note:
        Lightning's requeueing saves inside the signal handler: ranks that receive the signal at different times wait
        for each other forever, and DataLoader workers overwrite the checkpoint (lightning issue 21406).
    """
    if SLURMEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)]
    return [TorchrunEnvironment()] if TorchElasticEnvironment.detect() else []


LAUNCHED = "IMPACT_PL_LAUNCHER"  # process id of the training in rank zero, for the ranks it starts
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_left_by_lightning: dict[str, str] = {}  # rank variables that it set for an earlier training of this process


def check_processes(config: TrainerConfig) -> None:
    """Check that there is one process per rank, however they were launched.

    With too many, each would run a complete training in the same run directory; with too few, they would wait for each
    other.

    Raises:
        UserError: The number is wrong, or environment variables contradict the configuration.
    """
    if is_launched_by_lightning():
        return
    ranks = config.devices * config.num_nodes
    if SLURMEnvironment.detect() or "SLURM_STEP_ID" in os.environ:
        _check_slurm(config, ranks)
        return
    found = _rank_variables()
    if not found or found == _left_by_lightning or found.get("WORLD_SIZE") == str(ranks):
        return
    if TorchElasticEnvironment.detect():
        raise UserError(
            f"torchrun started {found.get('WORLD_SIZE')} process(es), but {_product(config)}: one process per device, "
            "with trainer=ddp (or fsdp2, deepspeed), trainer.devices= the processes of a node and trainer.num_nodes="
        )
    said = " ".join(f"{name}={value}" for name, value in found.items())
    raise UserError(
        f"the environment has {said}, but {_product(config)}: unset {' '.join(found)} if they are left over, or start "
        "the processes with torchrun, with srun, or by trainer=ddp trainer.devices=N alone"
    )


def _rank_variables() -> dict[str, str]:
    return {name: os.environ[name] for name in RANK_VARIABLES if name in os.environ}


def _product(config: TrainerConfig) -> str:
    ranks = config.devices * config.num_nodes
    return f"trainer.devices={config.devices} on trainer.num_nodes={config.num_nodes} are {ranks} rank(s)"


def _check_slurm(config: TrainerConfig, ranks: int) -> None:
    if not SLURMEnvironment.detect():  # an interactive shell, where Lightning starts its ranks itself
        if os.environ["SLURM_PROCID"] != "0":
            raise UserError(
                f"in a job named {SLURMEnvironment.job_name()} every task is a training of its own: "
                "srun --job-name=train makes one of them all"
            )
        return
    tasks = int(os.environ["SLURM_NTASKS"])
    if tasks != ranks:
        raise UserError(
            f"SLURM started {tasks} task(s), but {_product(config)}: one task a device (srun --ntasks={ranks}), or set "
            "trainer.devices to the tasks of a node and trainer.num_nodes to the nodes"
        )
    if ranks > 1 and "SLURM_STEP_ID" not in os.environ:
        raise UserError(
            f"this job has {tasks} tasks, but a batch script itself is only one process: write srun before the command"
        )


def is_launched_by_lightning() -> bool:
    """Check whether Lightning started this process as a rank of its parent's training."""
    return os.environ.get(LAUNCHED) == str(os.getppid())


@contextmanager
def as_launcher() -> Iterator[None]:
    """Let the processes that Lightning starts within it know that it did, and no process that is started later."""
    global _left_by_lightning
    if is_launched_by_lightning():
        yield
        return
    os.environ[LAUNCHED] = str(os.getpid())
    before = _rank_variables()
    try:
        yield
    finally:
        del os.environ[LAUNCHED]
        if _rank_variables() != before:
            _left_by_lightning = _rank_variables()


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
