"""A training that stands still says where, and ends, instead of holding its nodes until the time limit."""

import faulthandler
import signal
from typing import Any

from lightning import Callback


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
