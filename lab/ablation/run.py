"""Run the tasks of an ablation, several in parallel, each in its own process. Finished tasks are skipped.

Processes are forked from a server that has loaded the libraries, so that they start quickly. Their output goes to log
files.
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
from typing import Any, cast

import impact_pl
from impact_pl.partial import write_whole
from impact_pl.training.log import git_revision
from lab.ablation.tasks import PHASES, Command, Task

PRELOADED = ["impact_pl.training.fit", "impact_pl.inference.pipeline", "impact_pl.cli.train", "impact_pl.cli.evaluate"]
Say = Callable[[str], None]


def result_path(out: Path, task: Task) -> Path:
    return out / "tasks" / f"{task.name}.json"


def log_path(out: Path, task: Task) -> Path:
    return out / "logs" / f"{task.name}.log"


def read_result(out: Path, task: Task) -> dict[str, Any] | None:
    """Read a finished task's result: ``seconds``, and ``figures`` if its commands write some.

    None if it is not finished.
    """
    path = result_path(out, task)
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return result if result["key"] == task.key else None


def run_tasks(tasks: Sequence[Task], out: Path, workers: int, say: Say = print) -> str | None:
    """Run unfinished tasks, phase by phase.

    Args:
        tasks: Tasks in any order. They only depend on tasks of earlier phases.
        out: Folder of the ablation.
        workers: Number of parallel tasks, which share the machine's cores. Tasks that measure time run alone.
        say: Called with a line per task.

    Returns:
        None, or if tasks failed, a description of the first one with the last line and the path of its log. Later
        phases are not started then.

    Raises:
        KeyboardInterrupt: After Ctrl-C or SIGTERM, once the running tasks have had time to save.
    """
    waiting = [task for task in tasks if read_result(out, task) is None]
    if len(waiting) < len(tasks):
        say(f"{len(tasks) - len(waiting)} of {len(tasks)} tasks were finished before")
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for phase in PHASES:
            here = [task for task in waiting if task.phase == phase]
            failed = run_together(here, out, 1 if phase == "speed" else workers, say)
            if failed:
                return (
                    f"{len(failed)} tasks failed; the first was {failed[0].name} ({last_words(out, failed[0])}; all it "
                    f"said is in {log_path(out, failed[0])}). The same command tries again"
                )
    finally:
        signal.signal(signal.SIGTERM, previous)
    return None


def run_together(tasks: Sequence[Task], out: Path, workers: int, say: Say) -> list[Task]:
    """Run independent tasks and return those that failed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    threads = max(1, (os.cpu_count() or 1) // workers)
    waiting, failed = list(tasks), []
    running: dict[BaseProcess, tuple[Task, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                task = waiting.pop(0)
                begin(task, out)
                process: BaseProcess = context.Process(target=_run, args=(task.commands, log_path(out, task), threads))
                process.start()
                running[process] = task, time.monotonic()
            ended = wait([process.sentinel for process in running])
            for process in [each for each in running if each.sentinel in ended]:
                task, started = running.pop(process)
                process.join()
                if process.exitcode == 0:
                    finish(task, out, time.monotonic() - started)
                    left = len(waiting) + len(running)
                    say(f"{task.name}: {time.monotonic() - started:.0f} s; {left} more to go in {task.phase}")
                else:
                    failed.append(task)
                    say(f"{task.name} failed: {last_words(out, task)}")
    except KeyboardInterrupt:
        say("stopping; running tasks save what they can")
        raise
    finally:
        for process in running:
            process.terminate()  # a training saves and exits
        for process in running:
            process.join()
    return failed


def begin(task: Task, out: Path) -> None:
    """Record the start of a task, and remove results started for another key, which its commands would continue."""
    note = result_path(out, task).with_suffix(".begun")
    if note.is_file() and note.read_text(encoding="utf-8") != task.key:
        for folder in task.outputs:
            shutil.rmtree(folder, ignore_errors=True)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_whole(note, task.key)


def finish(task: Task, out: Path, seconds: float) -> None:
    """Write a task's result, which marks it as finished."""
    figures = None if task.result is None else json.loads(task.result.read_text(encoding="utf-8"))
    result = {"name": task.name, "key": task.key, "seconds": round(seconds, 2), "commands": task.commands}
    result["code"] = git_revision(Path(impact_pl.__file__))
    path = result_path(out, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(result | {"figures": figures}, indent=1) + "\n")


def last_words(out: Path, task: Task) -> str:
    """Return the last line of a task's log."""
    path = log_path(out, task)
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def as_typed(module: str, arguments: Sequence[str]) -> str:
    """Format a task's command as it is typed."""
    inside = module.removeprefix("impact_pl.cli.")
    program = f"python -m {module}" if inside == module else f"impact {inside}"
    return f"{program} {shlex.join(arguments)}"


def _run(commands: Iterable[Command], log: Path, threads: int) -> None:
    """Run a task's commands in turn until one fails, in its own process."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    cast(TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)  # otherwise unbuffered errors would come first
    import torch

    torch.set_num_threads(threads)
    for module, *arguments in commands:
        print("$", as_typed(module, arguments), flush=True)
        try:
            importlib.import_module(module).main(arguments)
        except SystemExit as end:
            if end.code:
                sys.exit(end.code)


def _end_with_the_parent() -> None:
    """Exit when the ablation's own process is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a task runs in a child process"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
