"""CUDA graphs: launch thousands of small kernels as one, so that the host keeps up with the device."""

import gc
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Key = tuple[Any, ...]
Graph = tuple[torch.cuda.CUDAGraph, list[Any], Tensor]  # the graph, its inputs and its output

MAX_BYTES = 2 << 30  # of the graphs' inputs and outputs, per function
MAX_GRAPHS = 512  # per function; the encoder needs one per iteration for each duration, batch size and text length


def bucket(rows: int) -> int:
    """Round a number of rows up to a power of two, so that several share a graph at the cost of some unused rows."""
    return 1 << (rows - 1).bit_length()


def remember(entries: OrderedDict, key: Key, value: Any, limit: int) -> None:
    """Make an entry the most recent one, and evict the least recent beyond ``limit``."""
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > limit:
        entries.popitem(last=False)


class Graphed:
    """Capture a function of CUDA tensors the second time its shapes occur, and replay the graph from then on.

    Non-tensor arguments must be hashable; each value gets its own graph. The function must not synchronise with the
    device. Every graph keeps its inputs and its output; the intermediate tensors of all graphs share one memory pool.

    The least recently used graphs are evicted beyond ``limit`` shapes, or beyond ``max_bytes`` of inputs and outputs. A
    cycle of more shapes than that captures none and runs as without graphs.

    Not thread-safe: a replay reads the inputs that the last call wrote.
    """

    def __init__(self, function: Callable[..., Tensor], limit: int = MAX_GRAPHS, max_bytes: int = MAX_BYTES) -> None:
        self.function, self.limit, self.max_bytes = function, limit, max_bytes
        self._graphs: OrderedDict[Key, Graph | None] = OrderedDict()  # None: seen once
        self._pools: dict[torch.device, Any] = {}

    def __call__(self, *arguments: Any) -> Tensor:
        device, *_ = key = key_of(arguments)
        with torch.cuda.device(device):  # capture runs on the current device, not the inputs'
            return self._call(key, device, arguments)

    def _call(self, key: Key, device: torch.device, arguments: tuple[Any, ...]) -> Tensor:
        if key not in self._graphs:  # one use is not worth a capture; libraries also allocate their workspaces here
            remember(self._graphs, key, None, self.limit)
            return self.function(*arguments)
        captured = self._graphs[key]
        if captured is None:
            captured = self._capture(device, arguments)
            self._make_room(num_bytes(captured))
        remember(self._graphs, key, captured, self.limit)
        graph, fixed, output = captured
        for target, x in zip(fixed, arguments, strict=True):
            if isinstance(x, Tensor):
                target.copy_(x)
        graph.replay()
        return output.clone()

    def _make_room(self, wanted: int) -> None:
        """Evict the least recently used graphs until ``wanted`` more bytes fit within ``max_bytes``."""
        total = wanted + sum(num_bytes(graph) for graph in self._graphs.values() if graph is not None)
        for key in list(self._graphs):
            if total <= self.max_bytes:
                return
            graph = self._graphs.pop(key)
            total -= 0 if graph is None else num_bytes(graph)

    def _capture(self, device: torch.device, arguments: tuple[Any, ...]) -> Graph:
        """Capture the function as a graph.

        Raises:
            UserWarning: Nothing was captured. Such a graph would return its first output forever.
        """
        fixed, graph = [x.clone() if isinstance(x, Tensor) else x for x in arguments], torch.cuda.CUDAGraph()
        if device not in self._pools:
            self._pools[device] = torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # warm up on a side stream before the capture (PyTorch notes on CUDA graphs)
            self.function(*fixed)
        torch.cuda.current_stream().wait_stream(side)
        with warnings.catch_warnings(), without_collection():
            warnings.filterwarnings("error", message=".*CUDA Graph is empty")
            # thread_local: other threads may allocate memory during the capture
            with torch.cuda.graph(graph, pool=self._pools[device], capture_error_mode="thread_local"):
                output = self.function(*fixed)
        return graph, fixed, output


def key_of(arguments: tuple[Any, ...]) -> Key:
    """Identify the graph for these arguments: their device, shapes and dtypes, and the values that are no tensors."""
    device = next(x.device for x in arguments if isinstance(x, Tensor))
    return (device, *((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in arguments))


def num_bytes(graph: Graph) -> int:
    """Count the bytes of a graph's inputs and output."""
    _, fixed, output = graph
    return sum(x.nbytes for x in [*fixed, output] if isinstance(x, Tensor))


@contextmanager
def without_collection() -> Iterator[None]:
    """Disable the garbage collector, because freeing another graph during a capture would invalidate the capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
