"""CUDA graphs: thousands of small kernels launched as one. Without them the host is slower than the device."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Key = tuple[Any, ...]
Graph = tuple[torch.cuda.CUDAGraph, list[Any], Tensor]  # with its inputs and its output

MAX_GRAPHS = 512  # of a function: 64 iterations are 64 of the encoder, for each duration, batch size and text length


def bucket(rows: int) -> int:
    """The next power of two: numbers of rows that share a graph, at the price of computing some for nothing."""
    return 1 << (rows - 1).bit_length()


def remember(entries: OrderedDict, key: Key, value: Any, limit: int) -> None:
    """Make an entry the most recent one; of more than ``limit`` the least recent goes."""
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > limit:
        entries.popitem(last=False)


class Graphed:
    """A function of CUDA tensors that is captured when shapes are seen for the second time, and replayed from then on.

    Arguments that are no tensors have to be hashable: each value is another graph. The function must not wait for the
    device. Every graph keeps its inputs and its output; what lies between is in one pool of memory for all.

    Shapes beyond ``limit`` are forgotten, those first that were used longest ago, with their graphs: the memory that
    graphs take is bounded. A round of more shapes than that captures none, and runs as without graphs.
    """

    def __init__(self, function: Callable[..., Tensor], limit: int = MAX_GRAPHS) -> None:
        self.function, self.limit = function, limit
        self._graphs: OrderedDict[Key, Graph | None] = OrderedDict()  # None: seen once
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, *arguments: Any) -> Tensor:
        key = tuple((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in arguments)
        if key not in self._graphs:  # a single use is not worth a capture; and libraries allocate what they keep here
            remember(self._graphs, key, None, self.limit)
            return self.function(*arguments)
        captured = self._graphs[key] or self._capture(arguments)
        remember(self._graphs, key, captured, self.limit)
        graph, fixed, output = captured
        for target, x in zip(fixed, arguments, strict=True):
            if isinstance(x, Tensor):
                target.copy_(x)
        graph.replay()
        return output.clone()

    def _capture(self, arguments: tuple[Any, ...]) -> Graph:
        fixed, graph = [x.clone() if isinstance(x, Tensor) else x for x in arguments], torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # once on a side stream before the capture: PyTorch's notes on CUDA graphs
            self.function(*fixed)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph, pool=self._pool):
            output = self.function(*fixed)
        return graph, fixed, output
