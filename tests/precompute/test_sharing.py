"""Work shared by processes: the same bytes whoever makes which shard, one clear end whatever happens."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from impact_pl.audio import save_audio
from impact_pl.cli import precompute
from impact_pl.config import PrecomputeConfig
from impact_pl.data.manifest import Record, write_manifest
from impact_pl.precompute.plan import find_share
from impact_pl.precompute.precompute import Precomputer, load_models

ARRAY = {"SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_MAX": "10", "SLURM_ARRAY_TASK_STEP": "2"}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Eighteen records of three to four seconds at 44.1 kHz: nine shards, two of them valid; the first is silent."""
    folder, generator = tmp_path_factory.mktemp("sharing"), torch.Generator().manual_seed(0)
    records = []
    for i in range(18):
        noise = 0.3 * torch.randn(44_100 * 3 + 2000 * i, generator=generator) * (i > 0)
        save_audio(folder / f"{i}.wav", noise, 44_100)
        records.append(Record(f"noise {i}", f"{i}.wav", caption=f"noise {i}", split="valid" if i > 13 else "train"))
    write_manifest(folder / "manifest.jsonl", records)
    return folder / "manifest.jsonl"


def settings(manifest, out, **more) -> PrecomputeConfig:
    shared = {"clip_seconds": 1.28, "samples_per_shard": 2, "batch_size": 3, "text_encoder": "none"}
    return PrecomputeConfig(manifest=str(manifest), out=str(out), **shared, **more)


def make(manifest, out, **more) -> dict[str, bytes]:
    config = settings(manifest, out, **more)
    Precomputer(config, *load_models(config)).run()
    return contents(out)


def contents(out) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole(manifest, tmp_path_factory):
    return make(manifest, tmp_path_factory.mktemp("whole") / "out")


def test_loading_threads_do_not_change_a_byte(manifest, whole, tmp_path):
    for threads in (1, 3):
        config = settings(manifest, tmp_path / str(threads))
        maker = Precomputer(config, *load_models(config))
        for split in ("train", "valid"):
            (tmp_path / str(threads) / split).mkdir(parents=True)
        seen: list[None] = []
        before = torch.get_num_threads()
        maker.write(list(range(len(maker.shards))), partial(seen.append, None), threads)
        assert torch.get_num_threads() == before
        assert len(seen) == 18
        made = contents(tmp_path / str(threads))
        assert {name: made[name] for name in made} == {name: whole[name] for name in made}
        assert len(made) == 18  # nine shards, nine notes


def test_tasks_share_the_shards_and_the_last_one_writes_the_index(manifest, whole, tmp_path, capsys):
    out = tmp_path / "out"
    for task, missing in ((2, 6), (0, 3)):
        make(manifest, out, task=task, num_tasks=3)
        said = capsys.readouterr().out
        assert f"task {task} of 3 done; {missing} shards of others are missing; the last one writes the index" in said
        assert not list(out.rglob("index.json"))
    make(manifest, out, task=0, num_tasks=3)  # nothing of its own is left
    assert "3 of 3 shards were finished before" in capsys.readouterr().out
    assert make(manifest, out, task=1, num_tasks=3) == whole
    assert make(manifest, out, task=1, num_tasks=3) == whole
    assert "nothing to do" in capsys.readouterr().out


def test_more_tasks_than_shards(manifest, whole, tmp_path):
    for task in range(11):
        made = make(manifest, tmp_path / "out", task=task, num_tasks=11)
    assert made == whole


@pytest.mark.parametrize(
    ("environ", "keys", "share"),
    [
        ({}, {}, (0, 1)),
        ({}, {"task": 1, "num_tasks": 4}, (1, 4)),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_COUNT": "4"}, {}, (2, 4)),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_COUNT": "4"}, {"task": 0, "num_tasks": 1}, (0, 1)),
    ],
)
def test_shares(environ, keys, share):
    assert find_share(PrecomputeConfig(**keys), environ) == share


@pytest.mark.parametrize(
    ("environ", "keys", "message"),
    [
        ({}, {"task": 1}, "task=1 num_tasks=0: give both"),
        ({}, {"num_tasks": 3}, "task=-1 num_tasks=3: give both"),
        ({}, {"task": 3, "num_tasks": 3}, "task from 0 to num_tasks - 1"),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "3"}, {}, "3 tasks from 4 to 10 in steps of 2"),
    ],
)
def test_impossible_shares(environ, keys, message):
    with pytest.raises(ValueError, match=message):
        find_share(PrecomputeConfig(**keys), environ)


def command(manifest, out, *more) -> list[str]:
    given = ["clip_seconds=1.28", "samples_per_shard=2", "batch_size=3", "text_encoder=none", *more]
    return [sys.executable, "-m", "impact_pl", "precompute", f"manifest={manifest}", f"out={out}", *given]


def start(*arguments) -> subprocess.Popen:
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
    )


def children(process: subprocess.Popen) -> list[int]:
    """Its worker processes (multiprocessing also keeps a resource tracker)."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in listed if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def wait_for_shard(process: subprocess.Popen, out: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(out.rglob("*.done.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_killed_worker_and_a_signal_end_all_and_lose_nothing(manifest, whole, tmp_path):
    process = start(manifest, tmp_path / "out", "workers=2")
    wait_for_shard(process, tmp_path / "out")
    os.kill(children(process)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "error: a worker process ended with signal 9 (9 is often a lack of memory)" in said
    assert "Traceback" not in said
    kept = contents(tmp_path / "out")
    stop_by_signal(manifest, tmp_path / "out", signal.SIGTERM, 143)
    made = contents(tmp_path / "out")
    assert {name: made[name] for name in kept if name.endswith("json")} == {
        name: kept[name] for name in kept if name.endswith("json")
    }
    assert make(manifest, tmp_path / "out") == whole


@pytest.mark.slow
def test_ctrl_c_ends_all_workers(manifest, whole, tmp_path):
    stop_by_signal(manifest, tmp_path / "out", signal.SIGINT, 130)
    assert make(manifest, tmp_path / "out") == whole


def stop_by_signal(manifest, out: Path, signum: int, code: int) -> None:
    """Start two workers, stop them at work (Ctrl-C reaches the whole group, a scheduler's SIGTERM here the first)."""
    process = start(manifest, out, "workers=2")
    deadline = time.monotonic() + 120
    workers: list[int] = []
    while not any(list(out.rglob(f"*.tar.*.{pid}.partial")) for pid in workers):
        workers = children(process)
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert len(workers) == 2
    os.killpg(process.pid, signum) if signum == signal.SIGINT else process.send_signal(signum)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "finished shards are kept; the same command continues." in said
    assert "Traceback" not in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not list(out.rglob("*.partial"))


@pytest.mark.slow
def test_a_mistake_in_a_worker_is_one_line(manifest, tmp_path, capsys):
    """Something stands where a shard's note should go: only the worker that writes it finds that out."""
    (tmp_path / "out" / "train" / "000001.tar").mkdir(parents=True)
    with pytest.raises(SystemExit) as stop:
        precompute.main(command(manifest, tmp_path / "out", "workers=2")[4:])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "error: " in said
    assert "000001.tar" in said
    assert "Traceback" not in said


def test_a_lost_shard_is_found_again_by_the_task_whose_it_is(manifest, whole, tmp_path):
    out = tmp_path / "out"
    make(manifest, out)
    (out / "train" / "000003.tar").unlink()
    shutil.rmtree(out / "valid")
    assert make(manifest, out, task=1, num_tasks=2) != whole
    assert make(manifest, out, task=0, num_tasks=2) == whole
    (out / "train" / "000003.tar").write_bytes(b"cut short")
    assert make(manifest, out, task=0, num_tasks=2) != whole  # it is the other one's
    assert make(manifest, out, task=1, num_tasks=2) == whole
