"""Signals that ask training to save and stop: Ctrl-C, SIGTERM, and SIGUSR1 (a scheduler's warning)."""

import os
import signal
from types import FrameType
from typing import Any


class StopSignal:
    """Handlers that only set a flag; training reads it between two batches (a handler must never save by itself).

    Install it as the first act of the process, and again once fit has begun: Lightning puts its own SIGTERM handler
    around ours, which talks to the other ranks from inside the handler and can deadlock. From ``hold`` until then the
    kernel keeps signals back, so that none meets that handler, and child processes of the start-up are spared.
    ``restore`` gives back the handlers and the signal mask of before: a job script that starts the process with blocked
    signals (slurm/train.sh) gets them blocked again, and a late one cannot kill a process that is about to end well.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    HELD = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}
        self._mask: Any = None

    def install(self) -> "StopSignal":
        for signum in self.SIGNALS:
            previous = signal.signal(signum, self._handle)
            self._previous.setdefault(signum, previous)
        mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, self.HELD)
        self._mask = mask if self._mask is None else self._mask
        return self

    def hold(self) -> None:
        """Signals wait in the kernel until ``install`` is called again."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self.HELD)

    def restore(self) -> None:
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()
        self._mask = None

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
