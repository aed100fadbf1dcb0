"""A training that stands still ends by itself, says where it stood, and continues."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from impact_pl.cli import train
from impact_pl.training.checkpoint import read_checkpoint


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_guard_shows_where_the_process_stands_and_ends_it():
    program = (
        "import time\nfrom impact_pl.training.process import StallGuard\nwith StallGuard(0.01):\n    time.sleep(60)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGALRM
    assert 'File "<string>", line 4 in <module>' in ended.stderr


def test_batches_and_the_end_set_the_guard_back():
    program = (
        "import time\nfrom impact_pl.training.process import StallGuard\nguard = StallGuard(0.02)\nwith guard:\n"
        "    for _ in range(4):\n        time.sleep(0.6)\n        guard.on_train_batch_end()\ntime.sleep(1.5)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for a process's children in Linux's /proc")
def test_a_worker_that_never_answers(random_latents, tmp_path, run, capfd):
    """The only DataLoader worker is frozen in the middle of the training."""
    arguments = [
        *("experiment=pretrain", "model=tiny", "trainer=cpu", f"data.path={random_latents}", "data.batch_size=4"),
        *("name=run", f"runs_dir={tmp_path}", "trainer.log_every_steps=1", "trainer.checkpoint_every_steps=5"),
        "trainer.validate_every_steps=0",
    ]
    endless = ["data.num_workers=1", "trainer.max_steps=100000", "trainer.stall_minutes=0.5"]
    errors = tmp_path / "errors.txt"  # no pipe, which the frozen worker would keep open
    with errors.open("w") as stderr:
        stalling = subprocess.Popen([sys.executable, "-m", "impact_pl", "train", *arguments, *endless], stderr=stderr)
    while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
        assert stalling.poll() is None
        time.sleep(0.1)
    (worker,) = (worker for server in children(stalling.pid) for worker in children(server))
    os.kill(worker, signal.SIGSTOP)
    try:
        stalling.wait(timeout=90)
    finally:
        stalling.kill()
        os.kill(worker, signal.SIGKILL)
    assert stalling.returncode == -signal.SIGALRM
    assert "dataloader.py" in errors.read_text()  # where the main thread waited
    step = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"]
    assert run(train.main, *arguments, "data.num_workers=0", f"trainer.max_steps={step + 5}") == 0
    assert f"at step {step} of" in capfd.readouterr().out
