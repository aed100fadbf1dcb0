"""Guard a training: one at a time per run directory, a stop on request, an end where it stalls or is not finite."""

import errno
import faulthandler
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch
from lightning import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from impact_pl.config import OptimConfig
from impact_pl.errors import UserError

LOCK = "lock"
PATIENCE = 15.0  # seconds; a training that was killed, or that runs on a node just lost, may still hold the lock


@contextmanager
def only_training(run_dir: Path) -> Iterator[None]:
    """Within it, no other process enters for the same ``run_dir``, on any node whose file system shares locks.

    For all ranks, of which rank zero alone holds the lock. The kernel releases it with the process, however that ends.
    A directory that is still empty at the end is removed.

    Note:
        A POSIX lock (lockf): unlike flock's, forked DataLoader workers do not hold it when their parent is gone.

    Raises:
        ValueError: another training holds it, and goes on holding it for ``PATIENCE`` seconds.
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
    """Rank zero, before there is a trainer to ask; Lightning's launcher sets no rank in a node's first process."""
    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"


def _lock(run_dir: Path) -> IO[str]:
    """The lock file, open; closing it releases the lock."""
    deadline = time.monotonic() + PATIENCE
    is_told = False
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
                f"another training is at work in {run_dir} (the same name=...): stop it, or choose another name=..."
            )
        if not is_told:
            print(f"waiting for another training in {run_dir} to end", flush=True)
            is_told = True
        time.sleep(0.2)


class StallGuard(Callback):
    """Ends the process when no batch has begun or ended for ``minutes``: a rank that never arrived, a network, a disk.

    The stacks of all threads go to the error output, then SIGALRM ends the process, so its exit code is 142. All ranks
    of a stalled training do that at about the same time. The same command continues from the last checkpoint, and
    slurm/job.sh puts the job back into the queue.

    A context manager, armed within it; a callback, to be told of batches. The kernel counts the time and faulthandler
    answers in C: the process may be stuck in a lock, a collective or a fork. DataLoader workers inherit no timer.

    Args:
        minutes: 0 for no guard.
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
    """Handlers that only set a flag; training reads it between two batches (a handler must never save by itself).

    A context manager: the handlers are in place within it.

    A job script may start the process with SIGTERM and SIGUSR1 blocked (slurm/train.sh): then they wait, during the
    start-up too, in which child processes are spared, until ``release`` lets them in. At the end the previous
    handlers come back; what was blocked is ignored from then on, because a late signal must not kill a process that is
    about to end well.
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
        """Let in what has waited since before the process began."""
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
        """128 + the signal's number, as shells count; SIGTERM's where another process got the signal."""
        return 128 + (self.signum or signal.SIGTERM)


def explain_non_finite(
    step: int, gradient_norm: float, losses: list[tuple[Tensor, list[str]]], config: OptimConfig
) -> str:
    """Say which clips a loss or gradient that is not finite came from, and what to try.

    Args:
        step: which the optimizer has not taken.
        gradient_norm: over all ranks.
        losses: of this rank's micro-batches, with the keys of their clips.
        config: its learning rate and clipping are named.
    """
    bad = [(float(loss), keys) for loss, keys in losses if not torch.isfinite(loss)]
    if bad:
        what = "; ".join(f"loss {loss} on the batch {', '.join(keys)}" for loss, keys in bad)
    else:
        clips = ", ".join(key for _, keys in losses for key in keys)
        what = f"finite loss but gradient norm {gradient_norm} (this rank's batch: {clips})"
    return (
        f"training stopped at step {step}: {what}. The last checkpoint is from before and is kept. Listen to these "
        f"clips; if they are sound, try trainer.precision=32-true, a lower optim.lr (now {config.lr}) or a lower "
        f"optim.gradient_clip (now {config.gradient_clip}); trainer.max_skipped_steps=N leaves out up to N such steps"
    )
