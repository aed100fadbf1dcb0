"""A training that fails ends: every process, at once, with a code that is not zero and the cause in its last lines."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from impact_pl.training.checkpoint import read_checkpoint

LIMIT = 30  # seconds from the failure to the end of the last process
START = 300  # seconds that a start may take on a busy machine
STALL = 120  # seconds until the guard ends a training; longer than the first batch takes there

FAILING = """
import resource, shutil, sys
from pathlib import Path
from lightning import Callback
from impact_pl.cli import train as command
from impact_pl.data import datamodule
from impact_pl.data.shards import LatentDataset
from impact_pl.training import fit

kind = sys.argv[1]

class Fails(Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 3 and kind == "callback":
            raise RuntimeError("the callback broke")
        if trainer.global_step == 3 and kind == "disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        if trainer.global_step == 3 and kind == "folder" and trainer.is_global_zero:
            shutil.rmtree(Path(trainer.default_root_dir) / "checkpoints")

class Dataset(LatentDataset):
    def __getitem__(self, i):
        if kind == "validation" and Path(self.folder).name == "valid" and Path(self.folder, "bad").exists():
            raise OSError(5, "Input/output error", "valid/000000.tar")
        return super().__getitem__(i)

datamodule.LatentDataset = Dataset
build = fit.build_trainer

def build_trainer(*args, **kwargs):
    trainer = build(*args, **kwargs)
    trainer.callbacks.insert(0, Fails())
    return trainer

fit.build_trainer = build_trainer
if __name__ == "__main__":
    command.main(sys.argv[2:])
"""


def processes_of(group: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, pgrp = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:3]
            except OSError:
                continue
            if int(pgrp) == group and state != "Z":
                found.append(int(folder.name))
    return found


def arguments(random_latents, tmp_path, *more: str) -> list[str]:
    return [
        *(
            "experiment=pretrain",
            "model=tiny",
            "trainer=cpu",
            "trainer.precision=32-true",
            f"data.path={random_latents}",
            "data.batch_size=4",
        ),
        *("name=run", f"runs_dir={tmp_path}", "trainer.log_every_steps=1", "data.num_workers=2"),
        *("trainer.max_steps=1000", "trainer.validate_every_steps=2", "trainer.checkpoint_every_steps=4"),
        *("trainer.stall_minutes=0", *more),
    ]


def start(program: list[str], tmp_path) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (tmp_path / "output.txt").open("w") as output:
        return subprocess.Popen(
            [sys.executable, *program], env=environment, stdout=output, stderr=output, start_new_session=True
        )


def wait_for_end(process: subprocess.Popen, seconds: float) -> None:
    """Wait until no process of the training is left."""
    try:
        process.wait(timeout=seconds)
        deadline = time.monotonic() + LIMIT
        while processes_of(process.pid):
            assert time.monotonic() < deadline, processes_of(process.pid)
            time.sleep(0.1)
    finally:
        if processes_of(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for_step(process: subprocess.Popen, metrics: Path, rows: int) -> None:
    deadline = time.monotonic() + START
    while not metrics.exists() or metrics.read_text().count("\n") < rows:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("callback", "the callback broke"),
        pytest.param("disk", r"last.ckpt.partial", marks=pytest.mark.slow),
        pytest.param("folder", "checkpoints/last.ckpt.partial", marks=pytest.mark.slow),
        ("validation", "valid/000000.tar"),
    ],
)
def test_an_error_beside_the_training_loader(random_latents, tmp_path, kind, said):
    """One validation is done, so that both loaders have workers that wait."""
    latents = random_latents
    if kind == "validation":
        latents = tmp_path / "latents"
        subprocess.run(["cp", "-r", str(random_latents), str(latents)], check=True)
    program = tmp_path / "failing.py"  # a file, because workers import it
    program.write_text(FAILING)
    process = start([str(program), kind, *arguments(latents, tmp_path)], tmp_path)
    if kind == "validation":
        wait_for_step(process, tmp_path / "run" / "metrics.csv", 5)
        (latents / "valid" / "bad").touch()
    wait_for_end(process, START)
    output = (tmp_path / "output.txt").read_text()
    assert process.returncode not in (0, None), output
    assert said in "\n".join(output.splitlines()[-12:]), output


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_damaged_validation_shard(random_latents, tmp_path):
    """One bit, found by its checksum in the first validation."""
    latents = tmp_path / "latents"
    shutil.copytree(random_latents, latents)
    shard = latents / "valid" / "000000.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    process = start(["-m", "impact_pl", "train", *arguments(latents, tmp_path)], tmp_path)
    wait_for_end(process, START)
    last_line = (tmp_path / "output.txt").read_text().splitlines()[-1]
    assert process.returncode == 2
    assert last_line.startswith(f"error: {shard}: sample 0 is damaged")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("num_processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_disk_that_is_full_during_a_checkpoint(random_latents, tmp_path, small_disk, num_processes):
    """Two checkpoints of 1.2 MB fit, a third does not: the last whole one stays."""
    more = ["trainer=ddp", "trainer.accelerator=cpu"] if num_processes == 2 else []
    training = ["-m", "impact_pl", "train", *arguments(random_latents, tmp_path, *more, f"runs_dir={small_disk}")]
    process = start([*training, "logger=csv"], tmp_path)
    wait_for_end(process, START)
    output = (tmp_path / "output.txt").read_text()
    assert process.returncode not in (0, None), output
    assert "No space left on device" in output.splitlines()[-1], output
    assert "last.ckpt.partial" in output
    assert read_checkpoint(small_disk / "run" / "checkpoints" / "last.ckpt")["global_step"] >= 4


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped_ends_the_training(random_latents, tmp_path, rank):
    """The other rank waits for it in a collective, until the guard ends both."""
    more = ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.stall_minutes={STALL / 60}", "data.num_workers=0"]
    process = start(["-m", "impact_pl", "train", *arguments(random_latents, tmp_path, *more)], tmp_path)
    wait_for_step(process, tmp_path / "run" / "metrics.csv", 5)
    (other,) = (pid for pid in processes_of(process.pid) if is_rank_one(pid))
    stopped = process.pid if rank == 0 else other
    os.kill(stopped, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + STALL + LIMIT
        waiting = other if rank == 0 else process.pid
        while is_running(waiting):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        os.kill(stopped, signal.SIGCONT)
    wait_for_end(process, LIMIT)
    assert process.returncode not in (0, None)
    assert "Current thread" in (tmp_path / "output.txt").read_text()


def is_rank_one(pid: int) -> bool:
    return b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("num_processes", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("signum", [signal.SIGKILL, pytest.param(signal.SIGBUS, marks=pytest.mark.slow)])
def test_a_worker_that_dies_ends_the_training(random_latents, tmp_path, signum, num_processes):
    more = ["trainer=ddp", "trainer.accelerator=cpu"] if num_processes == 2 else []
    process = start(["-m", "impact_pl", "train", *arguments(random_latents, tmp_path, *more)], tmp_path)
    wait_for_step(process, tmp_path / "run" / "metrics.csv", 5)
    workers = [pid for pid in processes_of(process.pid) if is_worker(pid)]
    os.kill(workers[0], signum)
    wait_for_end(process, LIMIT)
    output = (tmp_path / "output.txt").read_text()
    assert process.returncode not in (0, None), output
    assert f"(process {workers[0]}) was killed by {signum.name}" in output


def is_worker(pid: int) -> bool:
    """Whether its parent is a fork server, which is a child of a training."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    command = Path(f"/proc/{parent}/cmdline").read_bytes()
    return b"multiprocessing.forkserver" in command
