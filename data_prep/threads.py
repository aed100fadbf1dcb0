"""Threads that work ahead of the one that needs their results."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(pool: Executor, call: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
    """``call(item)`` of each item, in order; the next ``count`` are computed meanwhile."""
    running: deque[Future[Result]] = deque()
    for item in items:
        running.append(pool.submit(call, item))
        if len(running) > count:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def usable_cores() -> int:
    """Cores that this process may run on (a SLURM job's share, not the machine's)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Every thread of this process computes with one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
