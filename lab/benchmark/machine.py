"""The machine: what it is, and how fast it multiplies matrices, reads memory and starts operations."""

import functools
import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

import impact_pl
from impact_pl.precision import PRECISIONS
from impact_pl.training.log import git_revision
from lab.benchmark.timing import Work, median_seconds

PACKAGES = ("torch", "numpy", "transformers", "diffusers", "lightning")
MIB = 2**20
WORKING_SETS = tuple(size * MIB for size in (4, 16, 64, 256, 512))
GEMM_SECONDS = 0.5  # larger matrices are not tried when one product takes longer
# Dense bf16 products by the data sheet, in FLOP/s: what "model FLOPs utilisation" usually refers to.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "V100": 125e12}


@dataclass(frozen=True)
class Rates:
    """What a bound is made of.

    Attributes:
        gemm: precision -> FLOP/s of large matrix products (2 a multiply-add), the fastest way there is here.
        ways: way of multiplying -> FLOP/s; ``gemm`` holds the largest of each precision.
        bandwidth: bytes that are read again and again -> bytes/s. Small sets stay in the caches.
        launch: seconds to start one operation that does almost nothing.
    """

    gemm: dict[str, float]
    ways: dict[str, float]
    bandwidth: dict[int, float]
    launch: float

    def bandwidth_of(self, working_set: float) -> float:
        """Bytes/s at which so many bytes can be read over and over: of the next smaller set measured."""
        known = [size for size in self.bandwidth if size <= working_set] or [min(self.bandwidth)]
        return self.bandwidth[max(known)]


def describe(device: torch.device) -> dict:
    """What a reader must know to judge a figure: processor, threads, versions, code."""
    on_gpu = device.type == "cuda"
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "name": torch.cuda.get_device_name(device) if on_gpu else processor_name(),
        "device": device.type,
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory if on_gpu else memory_bytes(),
        "versions": found,
        "code": git_revision(Path(impact_pl.__file__)),
    }


def processor_name() -> str:
    """The processor's own name, with its model number where that says more (virtual machines shorten names)."""
    cpuinfo = Path("/proc/cpuinfo")
    fields = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", cpuinfo.read_text(), re.M)) if cpuinfo.is_file() else {}
    name = fields.get("model name", platform.processor() or platform.machine())
    return f"{name}, family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else name


def memory_bytes() -> int:
    """Main memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_of(name: str) -> float | None:
    """The data sheet's bf16 rate of a GPU by its name, in FLOP/s; None for one that is not in the list."""
    return next((peak for key, peak in PEAKS.items() if key in name), None)


def measure(device: torch.device, repeats: int = 5, largest: int = 8192) -> Rates:
    """Rates of ``device`` with the present number of threads; matrices up to ``largest`` x ``largest``."""
    ways = {
        f"{precision}, {name}": gemm_rate(product, dtype, device, repeats, largest)
        for precision, dtype in PRECISIONS.items()
        for name, product in products(dtype, device).items()
    }
    gemm = {precision: max(rate for way, rate in ways.items() if way.startswith(precision)) for precision in PRECISIONS}
    bandwidth = {size: read_rate(size, device, repeats) for size in WORKING_SETS}
    if device.type == "cuda":
        bandwidth = as_fast_as_larger(bandwidth)
    return Rates(gemm, ways, bandwidth, launch_seconds(device, repeats))


def products(dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Ways to multiply two matrices. In float32 a CPU has two libraries, and PyTorch's default may be the slower."""
    found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"torch.mm": torch.mm}
    if device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        found["oneDNN"] = packed_product
    return found


def packed_product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def gemm_rate(
    product: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, device: torch.device, repeats: int, largest: int
) -> float:
    """FLOP/s of square products, the best over their size."""
    best = 0.0
    size = min(512, largest)
    while size <= largest:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        with torch.inference_mode():
            seconds = median_seconds(functools.partial(product, a, b), repeats, device)
        best = max(best, 2 * size**3 / seconds)
        if seconds > GEMM_SECONDS:
            break
        size *= 2
    return best


def read_rate(size: int, device: torch.device, repeats: int) -> float:
    """Bytes/s of reading ``size`` bytes again and again."""
    x = torch.ones(size // 4 // 4096, 4096, device=device)
    vector = torch.ones(4096, device=device)
    times = max(2, WORKING_SETS[-1] // size)  # enough that starting a read is no matter

    def read() -> None:
        for _ in range(times):
            torch.mv(x, vector)  # two operations a number: reading is all there is to it

    with torch.inference_mode():
        return times * size / median_seconds(captured(read, device), repeats, device)


def captured(work: Work, device: torch.device) -> Work:
    """``work`` as one CUDA graph on a GPU, where reading a small set takes less than its launch from the host."""
    if device.type != "cuda":
        return work
    with torch.cuda.device(device):
        work()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
    return graph.replay


def as_fast_as_larger(bandwidth: dict[int, float]) -> dict[int, float]:
    """Rates with what starting a read costs a small set left out: it is read at least as fast as any larger one."""
    return {size: max(rate for other, rate in bandwidth.items() if other >= size) for size in bandwidth}


def launch_seconds(device: torch.device, repeats: int, count: int = 1000) -> float:
    """Seconds to start one operation, on a GPU without waiting for it."""
    x = torch.zeros(1, device=device)

    def launch() -> None:
        for _ in range(count):
            x.add_(1)

    with torch.inference_mode():
        return median_seconds(launch, repeats, device) / count
