"""Ctrl-C and SIGTERM: the first one asks training to save and stop, a second Ctrl-C kills."""

import os
import signal
from types import FrameType
from typing import Any


class StopSignal:
    """Handlers that only set a flag; training reads it between two batches (a handler must never save by itself).

    Install it as the first act of the process. Lightning puts its own SIGTERM handler around ours when fit begins (it
    talks to the other ranks from inside the handler, which can deadlock), so ``install`` is called once more after
    that. ``restore`` gives the previous handlers back.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def install(self) -> "StopSignal":
        for signum in self.SIGNALS:
            previous = signal.signal(signum, self._handle)
            self._previous.setdefault(signum, previous)
        return self

    def restore(self) -> None:
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
