"""Tell every rank why the training fails.

The ranks that wait for a failed one only see that their connection is closed, and their messages may come last.
"""

import contextlib
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from impact_pl.data.loader import lost_worker
from impact_pl.errors import UserError

NOTE = "failure"


class FirstFailure(Callback):
    """Note the cause of the rank that fails first, in a file of the run directory.

    Args:
        run_dir: Directory that all ranks share. Where it cannot be written, each rank tells its own cause only.
    """

    def __init__(self, run_dir: Path):
        self.path = run_dir / NOTE

    def setup(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.is_global_zero:  # Lightning waits for all ranks before and after setup
            self.path.unlink(missing_ok=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the note. This precedes the tear-down, so that no other rank has failed yet."""
        if trainer.world_size == 1 or not isinstance(exception, Exception):
            return
        kind = UserError if isinstance(exception, UserError) or lost_worker() else type(exception)
        cause = (
            lost_worker() or (str(exception).strip().splitlines() or [""])[-1]
        )  # the last: a worker's has a traceback
        with contextlib.suppress(OSError), self.path.open("x", encoding="utf-8") as file:
            file.write(f"{kind.__name__} rank {trainer.global_rank} failed first: {kind.__name__}: {cause}")

    def error_of_another(self, rank: int) -> Exception | None:
        """Return the error to raise if another rank than ``rank`` failed first."""
        try:
            kind, _, said = self.path.read_text(encoding="utf-8").partition(" ")
        except OSError:
            return None
        if not said or said.startswith(f"rank {rank} "):
            return None
        return UserError(said.replace("UserError: ", "")) if kind == UserError.__name__ else RuntimeError(said)
