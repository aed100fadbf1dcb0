"""Choose the device, and the floating-point format in which it computes best."""

import faulthandler
import functools
import os
import signal

import torch

from impact_pl.errors import UserError

PRECISIONS: dict[str, torch.dtype] = {"32-true": torch.float32, "bf16": torch.bfloat16}  # of decoding, besides "auto"


def find_device(name: str = "auto") -> str:
    """Resolve a device name; ``auto`` is cuda if available, else mps, else cpu.

    Raises:
        UserError: PyTorch cannot use the device here; the message names the available ones.
    """
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    there = ["cpu", *cuda, *mps]
    if name not in there and not (name == "cuda" and cuda):
        no_cuda = "" if cuda else " and no CUDA device"
        raise UserError(f"device {name!r}: PyTorch sees {', '.join(there)}{no_cuda} here; choose one of them, or auto")
    return name


def describe_arithmetic(device: torch.device) -> str:
    """Describe what float32 results depend on besides their inputs: the kind of device, and TF32 on CUDA."""
    if device.type != "cuda":
        return f"{device.type}, float32"
    has_tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return f"cuda, {'TF32' if has_tf32 else 'float32'}"


def resolve(precision: str, device: torch.device) -> str:
    """Resolve ``auto`` to bf16 if the device computes it natively, else to 32-true."""
    if precision == "auto":
        return "bf16" if computes_bf16(device) else "32-true"
    return precision


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype for ``precision``, including ``auto``."""
    return PRECISIONS[resolve(precision, device)]


def computes_bf16(device: torch.device) -> bool:
    """Check whether matrix products in bf16 are native on the device, and faster than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_computes_bf16()


@functools.cache
def cpu_computes_bf16() -> bool:
    """Check whether the CPU advertises bf16 instructions and really executes them.

    Some virtual machines advertise AMX but kill the process that uses it (illegal instruction), so a child process
    tries first. It is forked, because a new interpreter would have to import torch, for longer than a second.
    """
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)  # ends a child that hangs
            torch.set_num_threads(1)  # the parent's other threads are not there
            x = torch.ones(256, 256, dtype=torch.bfloat16)
            os._exit(int((x @ x)[0, 0] != 256))
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0
