"""A process that keeps what it frees asks the system for it once."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from impact_pl.training.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16 << 20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
keep_freed_memory(torch.device(DEVICE))
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a property of glibc")
@pytest.mark.parametrize(("device", "keeps"), [("cpu", True), ("meta", False)])
def test_freed_memory_is_not_asked_for_again(device, keeps):
    code = FAULTS.replace("DEVICE", repr(device))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before >= 4 * 32  # 16,384 pages a tensor, or 32 where the kernel gives huge ones
    assert after < before / 10 if keeps else after > before / 2
