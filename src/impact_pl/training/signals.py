"""Signals that ask training to save and stop: Ctrl-C, SIGTERM, and SIGUSR1 (a scheduler's warning)."""

import os
import signal
from types import FrameType
from typing import Any

from lightning import Trainer


class StopSignal:
    """Handlers that only set a flag; training reads it between two batches (a handler must never save by itself).

    A context manager: the handlers are in place within it.

    A job script may start the process with SIGTERM and SIGUSR1 blocked (slurm/train.sh): then they wait, during the
    start-up too, in which child processes are spared, until ``release`` lets them in. At the end the previous
    handlers come back; what was blocked is ignored from then on, because a late signal must not kill a process that is
    about to end well.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        for signum in self.SIGNALS:
            previous = signal.signal(signum, self._handle)
            self._previous[signum] = signal.SIG_IGN if signum in blocked else previous
        return self

    def release(self) -> None:
        """Let in what has waited since before the process began."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.signum is not None:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.signum = self.signum or signum

    @property
    def requested(self) -> bool:
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells count; SIGTERM's where another process got the signal."""
        return 128 + (self.signum or signal.SIGTERM)


def keep_handlers(trainer: Trainer) -> None:
    """Keep out Lightning's SIGTERM handler: it talks to the other ranks from inside itself, and can deadlock."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
