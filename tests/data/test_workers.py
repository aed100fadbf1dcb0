"""DataLoader workers and the process that they work for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from torch.utils.data import BatchSampler
from impact_pl.data.shards import LatentDataset
from impact_pl.data.datamodule import latent_loader

if __name__ == "__main__":
    dataset = LatentDataset(sys.argv[1])
    loader = latent_loader(dataset, BatchSampler(range(len(dataset)), batch_size=1, drop_last=False), num_workers=2)
    clips = sum(len(batch["keys"]) for batch in loader)
    print(clips, *(worker.pid for worker in loader._iterator._workers), flush=True)
    time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    """A process that has ended may wait for long to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks at processes in Linux's /proc")
def test_workers_outlive_signals_and_end_with_the_training(latents, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    training = subprocess.Popen([sys.executable, program, latents / "train"], stdout=subprocess.PIPE, text=True)
    clips, *workers = map(int, training.stdout.readline().split())
    server = int(Path(f"/proc/{workers[0]}/stat").read_text().rpartition(")")[2].split()[1])
    assert (clips, len(workers)) == (12, 2)
    assert server != training.pid
    for process in (server, *workers):
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(process, signum)
    time.sleep(0.5)
    assert all(map(is_alive, (server, *workers)))
    training.kill()
    deadline = time.monotonic() + 20
    while any(map(is_alive, (server, *workers))):
        assert time.monotonic() < deadline, "a worker has outlived the training"
        time.sleep(0.1)
