"""Describe the machine and measure its matrix multiplication speed."""

import functools
import os
import platform
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import impact_pl
from impact_pl.precision import PRECISIONS
from impact_pl.training.log import git_revision
from lab.benchmark.timing import median_seconds

PACKAGES = ("torch", "numpy", "transformers", "diffusers", "lightning")
GEMM_SECONDS = 0.5  # stop at larger matrices once a product takes longer
# Dense bf16 rate from the data sheet in FLOP/s, the usual reference of "model FLOPs utilization".
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "V100": 125e12}


def describe(device: torch.device) -> dict[str, Any]:
    """Collect what readers need to judge a measurement: processor, threads, versions, code."""
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
    """Return the processor's name, with its model number if that says more (virtual machines shorten names)."""
    cpuinfo = Path("/proc/cpuinfo")
    fields = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", cpuinfo.read_text(), re.M)) if cpuinfo.is_file() else {}
    name = fields.get("model name", platform.processor() or platform.machine())
    return f"{name}, family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else name


def memory_bytes() -> int:
    """Main memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_of(name: str) -> float | None:
    """Look up the data sheet's bf16 rate of a GPU in FLOP/s; None if it is not listed."""
    return next((peak for key, peak in PEAKS.items() if key in name), None)


def product_rates(device: torch.device, repeats: int = 5, largest: int = 8192) -> dict[str, float]:
    """Measure precision -> FLOP/s of the fastest large matrix products, with the current number of threads."""
    return {
        precision: max(product_rate(call, dtype, device, repeats, largest) for call in products(dtype, device))
        for precision, dtype in PRECISIONS.items()
    }


def products(dtype: torch.dtype, device: torch.device) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """List ways to multiply two matrices. In float32 a CPU has two libraries, and PyTorch's default may be slower."""
    found: list[Callable[[Tensor, Tensor], Tensor]] = [torch.mm]
    if device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        found.append(lambda a, b: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))  # a b^T by oneDNN
    return found


def product_rate(
    product: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, device: torch.device, repeats: int, largest: int
) -> float:
    """Measure FLOP/s (2 per multiply-add) of the fastest square product up to ``largest``."""
    best, size = 0.0, min(512, largest)
    while size <= largest:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        with torch.inference_mode():
            seconds = median_seconds(functools.partial(product, a, b), repeats, device)
        best = max(best, 2 * size**3 / seconds)
        if seconds > GEMM_SECONDS:
            break
        size *= 2
    return best
