"""Run units, several at a time, each in a process of its own; what is finished is not run again.

A unit's process is forked from a server that has the libraries loaded, so that it starts at once, and what it holds
or breaks ends with it. Its output goes to a log file.
"""

import importlib
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from io import TextIOWrapper
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

import impact_pl
from impact_pl.partial import write_whole
from impact_pl.training.log import git_revision
from lab.ablation.units import Command, Unit

PRELOADED = ["impact_pl.training.fit", "impact_pl.inference.pipeline", "impact_pl.cli.train", "impact_pl.cli.evaluate"]
Say = Callable[[str], None]


def result_path(out: Path, unit: Unit) -> Path:
    return out / "units" / f"{unit.name}.json"


def log_path(out: Path, unit: Unit) -> Path:
    return out / "logs" / f"{unit.name}.log"


def read_result(out: Path, unit: Unit) -> dict | None:
    """The result of a finished unit: ``seconds``, and ``figures`` where its commands write some; None: not finished."""
    path = result_path(out, unit)
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return result if result["key"] == unit.key else None


def run_units(units: Sequence[Unit], out: Path, workers: int, say: Say = print) -> str | None:
    """Run what is not finished yet; a unit that fails holds back only those that need it.

    Args:
        units: each after those that it needs.
        out: the ablation's folder.
        workers: units at a time; they share the machine's cores.
        say: gets a line for each unit.

    Returns:
        None, or where units failed: which was the first, what it said, and where its log is.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the running units had time to save.
    """
    progress = Progress(units, out, workers, say)
    waiting = [unit for unit in units if read_result(out, unit) is None]
    done = {unit.name for unit in units} - {unit.name for unit in waiting}
    failed: list[Unit] = []
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    running: dict[BaseProcess, tuple[Unit, float]] = {}
    try:
        while waiting or running:
            for unit in startable(waiting, done, [unit for unit, _ in running.values()], workers):
                waiting.remove(unit)
                begin(unit, out)
                threads = os.cpu_count() or 1 if unit.alone else max(1, (os.cpu_count() or 1) // workers)
                process: BaseProcess = context.Process(target=_run, args=(unit.commands, log_path(out, unit), threads))
                process.start()
                running[process] = unit, time.monotonic()
            if not running:  # what still waits needs what has failed
                break
            ended = wait([process.sentinel for process in running])
            for process in [each for each in running if each.sentinel in ended]:
                unit, begun = running.pop(process)
                process.join()
                if process.exitcode == 0:
                    finish(unit, out, time.monotonic() - begun)
                    done.add(unit.name)
                    progress.finished(unit)
                else:
                    failed.append(unit)
                    say(f"{unit.name} failed: {last_words(out, unit)}")
    except KeyboardInterrupt:
        say("stopping; running units save what they can")
        raise
    finally:
        for process in running:
            process.terminate()  # a training saves and ends
        for process in running:
            process.join()
        signal.signal(signal.SIGTERM, previous)
    if not failed:
        return None
    first = failed[0]
    return (
        f"{len(failed)} units failed and {len(waiting)} wait for them; the first was {first.name} "
        f"({last_words(out, first)}; all it said is in {log_path(out, first)}). The same command tries again"
    )


def startable(waiting: Sequence[Unit], done: set[str], running: Sequence[Unit], workers: int) -> list[Unit]:
    """Which of the waiting units can start now."""
    if any(unit.alone for unit in running):
        return []
    ready = [unit for unit in waiting if all(each.name in done for each in unit.needs)]
    together = [unit for unit in ready if not unit.alone][: workers - len(running)]
    alone = [unit for unit in ready if unit.alone][:1]
    return together or ([] if running else alone)


def begin(unit: Unit, out: Path) -> None:
    """Note what is begun. What was begun for another key is removed: the commands would go on with it."""
    note, result = result_path(out, unit).with_suffix(".begun"), result_path(out, unit)
    if note.is_file():
        before = note.read_text(encoding="utf-8")
    else:
        before = json.loads(result.read_text(encoding="utf-8"))["key"] if result.is_file() else unit.key
    if before != unit.key:
        for folder in unit.outputs:
            shutil.rmtree(folder, ignore_errors=True)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_whole(note, unit.key)


def finish(unit: Unit, out: Path, seconds: float) -> None:
    """Write a unit's result, which says that it is finished."""
    figures = None if unit.result is None else json.loads(unit.result.read_text(encoding="utf-8"))
    result = {"name": unit.name, "key": unit.key, "seconds": round(seconds, 2), "commands": unit.commands}
    result["code"] = git_revision(Path(impact_pl.__file__))
    path = result_path(out, unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(result | {"figures": figures}, indent=1) + "\n")


def last_words(out: Path, unit: Unit) -> str:
    """The last line that a unit said."""
    path = log_path(out, unit)
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


class Progress:
    """How far the ablation is, and how long the rest will take: as long as units of its kind have taken so far."""

    def __init__(self, units: Sequence[Unit], out: Path, workers: int, say: Say) -> None:
        self._left = {unit.name: unit for unit in units}
        self._total, self._out, self._workers, self._say = len(units), out, workers, say
        self._seconds: dict[str, list[float]] = {}
        for unit in units:
            self._count(unit)
        finished = self._total - len(self._left)
        if finished:
            say(f"{finished} of {self._total} units were finished before")

    def finished(self, unit: Unit) -> None:
        seconds = self._count(unit)
        number = self._total - len(self._left)
        self._say(f"unit {number} of {self._total}: {unit.name}, {seconds:.0f} s; {self._rest()}")

    def _count(self, unit: Unit) -> float:
        result = read_result(self._out, unit)
        if result is None:
            return 0.0
        del self._left[unit.name]
        self._seconds.setdefault(unit.kind, []).append(result["seconds"])
        return result["seconds"]

    def _rest(self) -> str:
        every = [seconds for kind in self._seconds.values() for seconds in kind]
        expected = 0.0
        for unit in self._left.values():
            known = self._seconds.get(unit.kind, every)
            expected += sum(known) / len(known) / (1 if unit.alone else self._workers)
        return f"about {max(1, round(expected / 60))} min left" if self._left else "nothing left"


def _run(commands: Iterable[Command], log: Path, threads: int) -> None:
    """A unit's process: its commands in turn, until one fails."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    cast(TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)  # or an error, which waits for nothing, goes first
    import torch

    torch.set_num_threads(threads)
    for module, *arguments in commands:
        print("$ python -m", module, shlex.join(arguments), flush=True)
        try:
            importlib.import_module(module).main(arguments)
        except SystemExit as end:
            if end.code:
                sys.exit(end.code)


def _end_with_the_parent() -> None:
    """Were the ablation killed, nobody would wait for this process."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a unit runs in a child process"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
