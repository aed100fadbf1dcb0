"""The DataLoader of latents, whose workers are never forked from the training process."""

import multiprocessing
import os
import signal
import threading
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext

import torch
from torch.utils.data import DataLoader, Sampler

from impact_pl.data.shards import LatentDataset, collate

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # reach every process of a job; the training alone answers


def latent_loader(dataset: LatentDataset, sampler: Sampler[list[int]], num_workers: int) -> DataLoader:
    """The training's batches.

    Args:
        dataset: reads the clips.
        sampler: a batch's indices in ``dataset``, batch after batch.
        num_workers: processes that read; 0: the caller's own does.
    """
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context=worker_context() if num_workers > 0 else None,
        worker_init_fn=begin_worker if num_workers > 0 else None,
        persistent_workers=num_workers > 0,
        generator=torch.Generator().manual_seed(0),  # or making an iterator would draw from the global state
    )


def worker_context() -> BaseContext:
    """How a DataLoader starts its workers: a server process, which has no threads, forks them.

    A fork copies locks as they are, but of the threads that hold them only its own. The training has threads that it
    does not know of (a process group's), and a worker that was forked while one of them held a lock stands still
    before its first line, and with it the training: seen in about one of 200 starts of two ranks on a busy machine.
    Forked from a training that has run, it also makes that copy each page of its memory when it next writes there: a
    step of base (batch 8, two cores) then took 48 s instead of 15.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["impact_pl.data.workers"])  # imported once, however many workers there are
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the server inherits that: it must outlive a warning
    try:
        resource_tracker.ensure_running()  # the server wants it too; it unblocks some signals when it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def begin_worker(worker: int) -> None:
    """A DataLoader's ``worker_init_fn``: no signal ends this worker, but the end of the training does.

    However that ends: a worker's parent is the server, which lives as long as its workers, so they would outlive it.
    """
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_training, daemon=True).start()


def _end_with_the_training() -> None:
    training = multiprocessing.parent_process()
    assert training is not None, "a worker is a child process"
    training.join()
    os._exit(1)
