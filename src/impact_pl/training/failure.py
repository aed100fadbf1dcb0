"""Tell every rank why the training fails.

The ranks that wait for a failed one only see that their connection is closed, and their messages may come last.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from impact_pl.data.loader import lost_worker
from impact_pl.errors import UserError, explain
from impact_pl.training.callbacks import TrainingStopped

NOTE = "failure"
SIZE = 4096  # bytes that the note occupies from the start on, because the disk may be full when it is written


class FirstFailure(Callback):
    """Note the cause of the rank that fails first, in a file of the run directory.

    Args:
        run_dir: Directory that all ranks share. Where it is gone, each rank tells its own cause only.
    """

    def __init__(self, run_dir: Path):
        self.path = run_dir / NOTE

    def setup(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.is_global_zero:  # Lightning waits for all ranks before and after setup
            self.path.unlink(missing_ok=True)
            if trainer.world_size > 1:
                self.path.write_bytes(b" " * SIZE)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._withdraw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the note. This precedes the tear-down, so that no other rank has failed yet."""
        if isinstance(exception, TrainingStopped):
            self._withdraw(trainer)
        elif trainer.world_size > 1 and isinstance(exception, Exception):
            self._write(f"rank {trainer.global_rank} failed first: ", exception)

    def error_of_another(self, rank: int) -> Exception | None:
        """Return the error to raise if another rank than ``rank`` failed first."""
        try:
            kind, _, said = self.path.read_text(encoding="utf-8", errors="replace").strip().partition(" ")
        except OSError:
            return None
        if not said or said.startswith(f"rank {rank} "):
            return None
        return UserError(said) if kind == UserError.__name__ else RuntimeError(said)

    def _write(self, who: str, error: Exception) -> None:
        """Fill in the reserved bytes, unless another rank has."""
        if isinstance(error, UserError):
            error = UserError(without_worker_traceback(str(error)))
        line = lost_worker() or explain(error)
        kind = type(error).__name__ if line is None else UserError.__name__
        if line is None:
            line = f"{kind}: {(str(error).strip().splitlines() or [''])[-1]}"  # the last: a worker's has a traceback
        note = f"{kind} {who}{line}".encode(errors="backslashreplace")
        with contextlib.suppress(OSError), self.path.open("r+b") as file:
            if not file.read(SIZE).strip():
                os.pwrite(file.fileno(), note[:SIZE].ljust(SIZE), 0)

    def _withdraw(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            self.path.unlink(missing_ok=True)


def without_worker_traceback(message: str) -> str:
    """Remove the traceback that a DataLoader worker prepends to its dataset's message."""
    if " DataLoader worker process " not in message:
        return message
    return message.strip().rpartition("\nimpact_pl.errors.UserError: ")[2]
