"""Show the progress of long tasks: a bar with the remaining time in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(name: str, total: int = 1, done: int = 0, unit: str = "records") -> Iterator["Bar | Lines"]:
    """Yield an object with ``advance(count)`` and ``show(done, total)``, shown as ``name``.

    ``done`` of ``total`` were finished by an earlier call.
    """
    if sys.stdout.isatty():
        with Bar(name, total, done, unit) as bar:
            yield bar
    else:
        yield Lines(name, total, done, unit)


class Bar:
    """Progress bar by rich."""

    def __init__(self, name: str, total: int, done: int, unit: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit + ","))
        self._progress = Progress(*columns, TimeRemainingColumn(), TextColumn("left"))
        self._task = self._progress.add_task(name, total=total, completed=done)

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, count: int = 1) -> None:
        self._progress.advance(self._task, count)

    def show(self, done: int, total: int) -> None:
        """Set how much is done, where the total is only known on the way."""
        self._progress.update(self._task, completed=done, total=total)


class Lines:
    """Progress lines: one every ten seconds, and one at the end."""

    def __init__(self, name: str, total: int, done: int, unit: str) -> None:
        self._name, self._total, self._done, self._unit, self._begun_at = name, total, done, unit, done
        self._start = self._last = time.monotonic()

    def advance(self, count: int = 1) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES and self._done < self._total:
            return
        self._last = now
        left = (now - self._start) / (self._done - self._begun_at) * (self._total - self._done)
        print(f"{self._name}: {self._done} of {self._total} {self._unit}, about {left:.0f} s left", flush=True)

    def show(self, done: int, total: int) -> None:
        """Set how much is done, where the total is only known on the way."""
        self._total = total
        if done > self._done:
            self.advance(done - self._done)
