"""Timing: warm-up, medians, several ways in turns. On a GPU the clock waits until the device is done."""

import statistics
import time
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

LONG = 5.0  # seconds; what takes longer is timed once
LAUNCHES = ("LaunchKernel", "GraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")  # calls of CUDA that start work

Work = Callable[[], object]


def synchronize(device: torch.device) -> None:
    """Wait for everything that ``device`` was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Work, device: torch.device) -> float:
    """Seconds of one call."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def warm_ups(device: torch.device) -> int:
    """Calls that do not count: on a GPU the first one allocates, and the second captures graphs (``Graphed``)."""
    return 2 if device.type == "cuda" else 1


def in_turns(ways: dict[str, Work], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each way.

    The ways take turns, so that a change of the machine's load meets all of them. Each is called before,
    :func:`warm_ups` times, uncounted. What takes longer than ``LONG`` is timed once; on a CPU its warm-up is that once,
    as a cold start is a small share of it.
    """
    times: dict[str, list[float]] = {}
    slow: set[str] = set()
    for name, way in ways.items():
        last = [seconds_of(way, device) for _ in range(warm_ups(device))][-1]
        if last > LONG:
            slow.add(name)
        times[name] = [last] if name in slow and device.type != "cuda" else []
    for _ in range(repeats):
        for name, way in ways.items():
            if name not in slow or not times[name]:
                times[name].append(seconds_of(way, device))
    return {name: statistics.median(found) for name, found in times.items()}


def median_seconds(work: Work, repeats: int, device: torch.device) -> float:
    """:func:`in_turns` for a single way."""
    return in_turns({"": work}, repeats, device)[""]


def count_launches(work: Work, device: torch.device) -> int:
    """Operations that one call starts: kernels, copies and graphs on a GPU, PyTorch's operations on a CPU.

    The call that is counted comes after the warm-ups, as timed ones do: it replays graphs and makes no schedule anew.
    """
    for _ in range(warm_ups(device)):
        work()
    if device.type != "cuda":
        with Counter() as counter:
            work()
        return counter.count
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        work()
        synchronize(device)
    return sum(any(call in event.name for call in LAUNCHES) for event in profiler.events())


class Counter(TorchDispatchMode):
    """Counts operations as they reach the processor, views left out."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))
