"""Guard a training run: one at a time per run directory, a stop on request, an end where it stalls or is not finite."""

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
PATIENCE = 15.0  # seconds; a killed training, or one on a lost node, may still hold the lock


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
                f"another training is running in {run_dir} (the same name=...): stop it, or choose another name=..."
            )
        if not is_told:
            print(f"waiting for another training in {run_dir} to end", flush=True)
            is_told = True
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


def explain_non_finite(
    step: int, gradient_norm: float, losses: list[tuple[Tensor, list[str]]], config: OptimConfig
) -> str:
    """Explain which clips produced a non-finite loss or gradient, and what to try.

    Args:
        step: The optimizer step that was not taken.
        gradient_norm: Gradient norm over all ranks.
        losses: Losses of this rank's micro-batches, with the keys of their clips.
        config: Source of the learning rate and clipping named in the message.
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
