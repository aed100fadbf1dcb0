"""Tasks are run once, phase by phase, and what fails or is stopped costs nothing that was finished."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.ablation import run
from lab.ablation.run import read_result, run_tasks
from lab.ablation.tasks import Task

STEP = '''
import json, os, sys, time
from pathlib import Path

def main(arguments):
    """NAME FILE SECONDS: note the name in FILE; the task called bad fails."""
    name, file, seconds = arguments
    with open(file, "a") as stream:
        stream.write(name + "\\n")
    print("hello from", name)
    if name == "bad":
        print("error: this one is bad", file=sys.stderr)
        sys.exit(2)
    time.sleep(float(seconds))
    Path(file).with_name(name + ".json").write_text(json.dumps({"threads": __import__("torch").get_num_threads()}))
'''


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes tasks of the command ``step``, which counts its calls."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "step.py").write_text(STEP)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setattr(run, "PRELOADED", [])  # these commands need no libraries

    def task(name: str, phase: str, *needs: Task, seconds: float = 0.0, **more) -> Task:
        command = ("step", name, str(tmp_path / "calls"), str(seconds))
        return Task(name, phase, (command,), needs, result=tmp_path / f"{name}.json", **more)

    return task


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().split()


def test_what_another_key_began_is_removed_and_what_this_one_began_is_not(make, tmp_path):
    folder = tmp_path / "weights"
    begun = make("first", "data", outputs=(folder,))
    for task, kept in ((begun, True), (begun, True), (make("first", "data", seconds=0.01, outputs=(folder,)), False)):
        folder.mkdir(exist_ok=True)
        (folder / "model").touch()
        run.begin(task, tmp_path / "out")
        assert (folder / "model").exists() == kept


def test_a_finished_task_is_not_run_again(make, tmp_path):
    said: list[str] = []
    first = make("first", "data")
    tasks = [first, make("timed", "speed", first), make("second", "text", first)]
    assert run_tasks(tasks, tmp_path / "out", 2, said.append) is None
    assert calls(tmp_path) == ["first", "second", "timed"]  # in the order of the phases
    assert read_result(tmp_path / "out", tasks[0])["figures"]["threads"] == max(1, (os.cpu_count() or 1) // 2)
    assert read_result(tmp_path / "out", tasks[1])["figures"]["threads"] == os.cpu_count()  # nothing runs next to it
    assert said[-1].startswith("timed: ")
    assert "hello from first" in (tmp_path / "out/logs/first.log").read_text()

    run_tasks(tasks, tmp_path / "out", 2, said.append)
    assert calls(tmp_path) == ["first", "second", "timed"]
    assert said[-1] == "3 of 3 tasks were finished before"

    changed = make("first", "data", seconds=0.01)  # another command: it and what needs it are made again
    tasks = [changed, make("second", "text", changed), make("third", "sounds")]
    run_tasks(tasks, tmp_path / "out", 1, said.append)
    assert calls(tmp_path)[3:] == ["first", "second", "third"]


def test_a_failure_ends_its_phase(make, tmp_path):
    said: list[str] = []
    bad = make("bad", "data")
    tasks = [bad, make("after", "text", bad), make("other", "data")]
    failure = run_tasks(tasks, tmp_path / "out", 1, said.append)
    assert "1 tasks failed; the first was bad (error: this one is bad" in failure
    assert calls(tmp_path) == ["bad", "other"]
    assert "bad failed: error: this one is bad" in said
    assert run_tasks(tasks, tmp_path / "out", 1, said.append) is not None
    assert calls(tmp_path) == ["bad", "other", "bad"]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
RUN = """
import signal
import sys
from pathlib import Path
sys.path.insert(0, "modules")
from lab.ablation import run
from lab.ablation.tasks import Task
run.PRELOADED = []
first = Task("first", "data", (("step", "first", "calls", "0"),), result=Path("first.json"))
slow = Task("slow", "text", (("step", "slow", "calls", sys.argv[1]),), (first,), result=Path("slow.json"))
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal; jobs in a shell's background ignore it
    run.run_tasks([first, slow], Path("out"), 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_stopped_and_continued(make, tmp_path, signum):
    (tmp_path / "go.py").write_text(RUN)
    process = subprocess.Popen([sys.executable, "go.py", "600"], cwd=tmp_path, stderr=subprocess.PIPE, env=ENVIRONMENT)
    deadline = time.monotonic() + 300
    while not (tmp_path / "calls").is_file() or "slow" not in calls(tmp_path):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signum)
    assert b"KeyboardInterrupt" in process.communicate(timeout=120)[1]
    assert json.loads((tmp_path / "out/tasks/first.json").read_text())["name"] == "first"
    assert not (tmp_path / "out/tasks/slow.json").exists()
    subprocess.run([sys.executable, "go.py", "0"], cwd=tmp_path, check=True, env=ENVIRONMENT)
    assert calls(tmp_path) == ["first", "slow", "slow"]
