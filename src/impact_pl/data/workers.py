"""DataLoader workers that are never forked from the training process."""

import multiprocessing
import signal
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # reach every process of a job; the training alone answers


def worker_context() -> BaseContext:
    """How a DataLoader starts its workers: a server process, which has no threads, forks them.

    A fork copies locks as they are, but of the threads that hold them only its own. The training has threads that it
    does not know of (a process group's), and a worker that was forked while one of them held a lock stands still
    before its first line, and with it the training: seen in about one of 150 starts of two ranks on a busy machine.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["impact_pl.data.shards"])  # imported once, however many workers there are
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the server inherits that: it must outlive a warning
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def ignore_signals(worker: int) -> None:
    """A DataLoader's ``worker_init_fn``."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
