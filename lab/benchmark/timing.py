"""Time calls: warm-up, medians, and several variants in turns."""

import statistics
from collections.abc import Callable

import torch
from torch.utils.benchmark import timer  # synchronises if there is a GPU

LONG = 5.0  # seconds; slower calls are timed once

Call = Callable[[], object]


def seconds_of(call: Call) -> float:
    """Time one call in seconds."""
    start = timer()
    call()
    return timer() - start


def num_warm_ups(device: torch.device) -> int:
    """Count the warm-up calls: on a GPU the first one allocates, and the second captures graphs (``Graphed``)."""
    return 2 if device.type == "cuda" else 1


def in_turns(calls: dict[str, Call], repeats: int, device: torch.device) -> dict[str, float]:
    """Measure the median seconds of each call.

    The calls take turns after :func:`num_warm_ups` uncounted calls each, so that a change of the machine's load affects
    all of them. Calls slower than ``LONG`` are timed once; on a CPU their warm-up is that measurement, since a cold
    start is a small part of it.
    """
    times: dict[str, list[float]] = {}
    slow: set[str] = set()
    for name, call in calls.items():
        last = [seconds_of(call) for _ in range(num_warm_ups(device))][-1]
        if last > LONG:
            slow.add(name)
        times[name] = [last] if name in slow and device.type != "cuda" else []
    for _ in range(repeats):
        for name, call in calls.items():
            if name not in slow or not times[name]:
                times[name].append(seconds_of(call))
    return {name: statistics.median(found) for name, found in times.items()}


def median_seconds(call: Call, repeats: int, device: torch.device) -> float:
    """Apply :func:`in_turns` to a single call."""
    return in_turns({"": call}, repeats, device)[""]
