"""CUDA graphs: thousands of small kernels launched as one. Without them the host is slower than the device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Key = tuple[Any, ...]


def bucket(rows: int) -> int:
    """The next power of two: numbers of rows that share a graph, at the price of computing some for nothing."""
    return 1 << (rows - 1).bit_length()


class Graphed:
    """A function of CUDA tensors that is captured when shapes are seen for the second time, and replayed from then on.

    Arguments that are no tensors have to be hashable: each value is another graph. The function must not wait for the
    device. Every graph keeps its inputs and its output; what lies between is in one pool of memory for all.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self._seen: set[Key] = set()
        self._graphs: dict[Key, tuple[torch.cuda.CUDAGraph, list[Any], Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, *arguments: Any) -> Tensor:
        key = tuple((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in arguments)
        if key not in self._seen:  # a single use is not worth a capture; and libraries allocate what they keep here
            self._seen.add(key)
            return self.function(*arguments)
        if key not in self._graphs:
            self._graphs[key] = self._capture(arguments)
        graph, fixed, output = self._graphs[key]
        for target, x in zip(fixed, arguments, strict=True):
            if isinstance(x, Tensor):
                target.copy_(x)
        graph.replay()
        return output.clone()

    def _capture(self, arguments: tuple[Any, ...]) -> tuple[torch.cuda.CUDAGraph, list[Any], Tensor]:
        fixed, graph = [x.clone() if isinstance(x, Tensor) else x for x in arguments], torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # once on a side stream before the capture: PyTorch's notes on CUDA graphs
            self.function(*fixed)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph, pool=self._pool):
            output = self.function(*fixed)
        return graph, fixed, output
