"""Load batches of latents in worker processes that start safely, ignore a job's signals, and end with the training."""

import atexit
import multiprocessing
import os
import signal
import threading
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import ClassVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from impact_pl.data.shards import collate

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # reach every process of a job; for the training only


def latent_loader(
    dataset: Dataset, sampler: Sampler[list[int]], num_workers: int, pin_memory: bool = False
) -> DataLoader:
    """Create the loader of training batches.

    Args:
        dataset: Dataset of clips.
        sampler: Yields the indices of one batch after another.
        num_workers: Number of worker processes; 0: read in the calling process.
        pin_memory: Copy batches to page-locked memory, for uploads to CUDA that do not wait.
    """
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        multiprocessing_context=worker_context() if num_workers > 0 else None,
        worker_init_fn=begin_worker if num_workers > 0 else None,
        persistent_workers=num_workers > 0,
        generator=torch.Generator().manual_seed(0),  # otherwise creating an iterator would draw from the global state
    )


class LoaderWorker(ForkServerProcess):
    """DataLoader worker process that ends by SIGKILL, since it ignores SIGTERM."""

    started: ClassVar[set["LoaderWorker"]] = set()  # of all loaders, without those that were told to end

    def start(self) -> None:
        super().start()
        self.started.add(self)

    def terminate(self) -> None:
        self.started.discard(self)
        self.kill()


class WorkerContext(ForkServerContext):
    Process = LoaderWorker


def end_workers() -> None:
    """Kill the workers of every loader, including loaders that an exception's traceback keeps alive.

    At exit Python sends SIGTERM to child processes and waits for them, which never ends for workers that ignore it.
    """
    for worker in LoaderWorker.started:
        if worker.exitcode is None:
            worker.kill()
    LoaderWorker.started.clear()


def lost_worker() -> str:
    """Describe a DataLoader worker that died unexpectedly (for example, killed by the OOM killer); "" if none did.

    PyTorch reports the worker only if it notices the death itself. A worker lost while handing over a batch shows up as
    a ConnectionResetError or similar.
    """
    for worker in LoaderWorker.started:
        code = worker.exitcode
        if code:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            return f"DataLoader worker {worker.name} (process {worker.pid}) {how}"
    return ""


atexit.register(end_workers)  # registered last to run first, before multiprocessing waits


def worker_context() -> WorkerContext:
    """Create a context that forks workers from a server process without threads.

    A fork copies locks but only the forking thread. A training process has library threads (such as those of a process
    group), and a worker forked while one of them holds a lock hangs before its first line, and the training with it:
    about one in 200 starts of two ranks on a busy machine. Workers forked from a running training process also copy
    each page of its memory that is written later: a step of the base model (batch 8, two cores) then took 48 s instead
    of 15.
    """
    context = WorkerContext()
    context.set_forkserver_preload(["impact_pl.data.datamodule"])  # imported once for all workers
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # inherited by the server, which must survive it
    try:
        resource_tracker.ensure_running()  # the server needs it too; starting it unblocks some signals
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def begin_worker(worker: int) -> None:
    """Initialise a worker: ignore the signals that stop a training run, and exit when it exits.

    A worker's parent is the server, which lives as long as its workers. Without the thread, workers would outlive a
    killed training.
    """
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_training, daemon=True).start()


def _end_with_the_training() -> None:
    training = multiprocessing.parent_process()
    assert training is not None, "a worker is a child process"
    training.join()
    os._exit(1)
