"""One training at a time in a run directory: two would write the same files."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lightning.pytorch.utilities.rank_zero import rank_zero_only

LOCK = "lock"
PATIENCE = 15.0  # seconds; a training that was killed, or that runs on a node just lost, may still hold the lock


@contextmanager
def only_training(run_dir: Path) -> Iterator[None]:
    """Within it, no other process enters for the same ``run_dir``, on any node whose file system shares locks.

    For all ranks, of which rank zero alone holds the lock. The kernel releases it with the process, however that ends.
    A directory that is still empty at the end is removed.

    Note:
        A POSIX lock (lockf): unlike flock's, forked DataLoader workers do not hold it when their parent is gone.

    Raises:
        ValueError: another training holds it, and goes on holding it for ``PATIENCE`` seconds.
    """
    if not _is_first_process():
        yield
        return
    with _lock(run_dir):
        try:
            yield
        finally:
            if run_dir.is_dir() and os.listdir(run_dir) == [LOCK]:
                (run_dir / LOCK).unlink()
                run_dir.rmdir()


def _is_first_process() -> bool:
    """Rank zero, before there is a trainer to ask; Lightning's launcher sets no rank in a node's first process."""
    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"


def _lock(run_dir: Path) -> IO[str]:
    """The lock file, open; closing it releases the lock."""
    deadline = time.monotonic() + PATIENCE
    is_told = False
    while True:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / LOCK).open("w")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                print(
                    f"{run_dir}: no locks here ({error.strerror}), make sure that no other run writes there", flush=True
                )
                return file
        file.close()
        if time.monotonic() > deadline:
            raise ValueError(
                f"another training is at work in {run_dir} (the same name=...): stop it, or choose another name=..."
            )
        if not is_told:
            print(f"waiting for another training in {run_dir} to end", flush=True)
            is_told = True
        time.sleep(0.2)
