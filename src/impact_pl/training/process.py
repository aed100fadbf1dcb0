"""Guard the process of a training run: check its launcher, lock its directory, stop on request, abort if it stalls.

Requeueing is done by the job script (slurm/job.sh), which sees from the exit code that a warning signal stopped the
training.
"""

import ctypes
import errno
import faulthandler
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from lightning import Callback
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from impact_pl.config import TrainerConfig
from impact_pl.errors import UserError

LOCK = "lock"
PATIENCE = 15.0  # seconds; a killed training, or one on a lost node, may still hold the lock
LAUNCHED = "IMPACT_PL_LAUNCHER"  # process id of the training in rank zero, for the ranks it starts
PR_SET_PDEATHSIG = 1  # of Linux's prctl
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_left_by_lightning: dict[str, str] = {}  # rank variables that it set for an earlier training of this process


@rank_zero_only
def say(line: str) -> None:
    print(line, flush=True)


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
        end_with_torchrun()
        self._port = super().main_port + 1  # MASTER_PORT itself is used by torchrun's agent
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"

    @property
    def main_port(self) -> int:
        return self._port


def end_with_torchrun() -> None:
    """Have the kernel end this rank if torchrun is killed (Linux): alone it would wait for the others for half an hour.

    Raises:
        UserError: torchrun was killed while this rank started.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    is_orphan = os.getppid() == 1 and os.path.realpath("/proc/1/exe") != os.path.realpath("/proc/self/exe")
    if is_orphan:  # torchrun itself may be process 1 of a container
        raise UserError("torchrun ended while this process started: start the training again")


def cluster_plugins() -> list[Any]:
    """Return the environment plugin for a SLURM job step, without Lightning's requeueing, or for torchrun.

    Note:
        Lightning's requeueing saves inside the signal handler: ranks that receive the signal at different times wait
        for each other forever, and DataLoader workers overwrite the checkpoint (lightning issue 21406).
    """
    if SLURMEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)]
    return [TorchrunEnvironment()] if TorchElasticEnvironment.detect() else []


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
                "srun --job-name=train combines them into one"
            )
        return
    tasks = int(os.environ["SLURM_NTASKS"])
    if tasks != ranks:
        raise UserError(
            f"SLURM started {tasks} task(s), but {_product(config)}: start one task per device (srun --ntasks={ranks}) "
            "or set trainer.devices to the tasks per node and trainer.num_nodes to the nodes"
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
    """Mark the processes that Lightning starts inside this context as its ranks, and none that are started later."""
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


@contextmanager
def only_training(run_dir: Path) -> Iterator[None]:
    """Prevent other processes from training in the same ``run_dir``, on any node whose file system shares locks.

    All ranks call this, and rank zero holds the lock. The kernel releases it with the process. A directory that is
    still empty at the end is removed.

    Note:
        It is a POSIX lock (lockf). Unlike with flock, forked DataLoader workers do not hold it after their parent is
        gone.

    Raises:
        UserError: Another training run holds it for more than ``PATIENCE`` seconds.
    """
    if not _is_first_process():
        yield
        return
    with _lock(run_dir):
        try:
            yield
        finally:
            if run_dir.is_dir() and os.listdir(run_dir) == [LOCK]:
                (run_dir / LOCK).unlink()
                run_dir.rmdir()


def _is_first_process() -> bool:
    """Check for rank zero before there is a trainer; Lightning's launcher sets no rank in a node's first process."""
    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"


def _lock(run_dir: Path) -> IO[str]:
    """Open and lock the lock file; closing it releases the lock."""
    deadline = time.monotonic() + PATIENCE
    is_announced = False
    while True:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / LOCK).open("w")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                print(
                    f"{run_dir}: no locks here ({error.strerror}), make sure that no other run writes there", flush=True
                )
                return file
        file.close()
        if time.monotonic() > deadline:
            raise UserError(
                f"another training is running in {run_dir} (the same name=...): stop it, or choose another name=..."
            )
        if not is_announced:
            print(f"waiting for another training in {run_dir} to end", flush=True)
            is_announced = True
        time.sleep(0.2)


class StallGuard(Callback):
    """Abort the process if no batch starts or ends for ``minutes``, e.g. due to a missing rank, network or disk.

    The stacks of all threads are written to stderr, then SIGALRM ends the process with exit code 142. All ranks of a
    stalled training do so at about the same time. The same command resumes from the last checkpoint, and slurm/job.sh
    requeues the job.

    This is both a context manager, which arms the guard, and a callback, which observes batches. The kernel keeps the
    time and faulthandler responds in C, since the process may be stuck in a lock, a collective or a fork. DataLoader
    workers do not inherit the timer.

    Args:
        minutes: Time limit; 0 disables the guard.
    """

    def __init__(self, minutes: float):
        self.minutes = minutes

    def __enter__(self) -> "StallGuard":
        if self.minutes:
            faulthandler.register(signal.SIGALRM, file=2, all_threads=True, chain=True)
        self._restart()
        return self

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.unregister(signal.SIGALRM)

    def _restart(self, *args: Any, **kwargs: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 60 * self.minutes)

    on_train_batch_start = on_train_batch_end = _restart
    on_validation_batch_start = on_validation_batch_end = _restart


class StopSignal:
    """Signal handlers that only set a flag, which training checks between batches. A handler must never save by itself.

    This is a context manager that installs the handlers.

    A job script may start the process with SIGTERM and SIGUSR1 blocked (slurm/train.sh). They then stay pending during
    start-up, which also protects child processes, until ``release`` unblocks them. On exit the previous handlers are
    restored. Signals that were blocked are ignored from then on, because a late signal must not kill a process that is
    about to finish.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        for signum in self.SIGNALS:
            previous = signal.signal(signum, self._handle)
            self._previous[signum] = signal.SIG_IGN if signum in blocked else previous
        return self

    def release(self) -> None:
        """Unblock the signals that have been pending since before the process started."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.signum is not None:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.signum = self.signum or signum

    @property
    def requested(self) -> bool:
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, the shell convention; SIGTERM's if another process received the signal."""
        return 128 + (self.signum or signal.SIGTERM)
