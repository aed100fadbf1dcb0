"""Kill `impact precompute` at random moments and check that nothing is lost and the result is identical.

    python -m lab.trials.kill_precompute [--trials 30] [--workers 2] [--seed 0]

A small synthetic manifest is precomputed without interruption. Each trial repeats the work in a new folder, is killed
(SIGKILL to the process group) at a random moment after a random number of shards, and resumed by the same command.
Every third trial runs two tasks of an array at once, of which one is killed and restarted. A shard finished before the
kill must not be written again, and finally every file's sha256 must equal the uninterrupted run's. Prints a Markdown
table; the exit code is 1 if anything was lost or differs.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import soundfile

from impact_pl.data.manifest import Record, write_manifest

RATE = 44_100
NUM_RECORDS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(run_trials(Path(folder), args))


def run_trials(folder: Path, args: argparse.Namespace) -> int:
    generator, start = random.Random(args.seed), time.monotonic()
    make_sounds(folder)
    finish(Precompute(folder, "undisturbed", args.workers))
    seconds = time.monotonic() - start
    expected = checksums(folder / "undisturbed")
    num_shards = len(list((folder / "undisturbed").rglob("*.tar")))
    print(f"undisturbed: {seconds:.1f} s, {num_shards} shards, {len(expected)} files\n")
    print("| trial | processes | killed after (s) | shards done then | shards lost | files that differ |")
    print("|---:|---|---:|---:|---:|---:|")
    bad = killed = 0
    for trial in range(1, args.trials + 1):
        is_array = trial % 3 == 0
        name, wait_for = f"trial{trial}", generator.randrange(num_shards // (1 + is_array))
        workers = 1 if is_array else args.workers
        runs = [Precompute(folder, name, workers, task, is_array) for task in range(1 + is_array)]
        begin = time.monotonic()
        while len(done_shards(folder / name)) < wait_for and runs[-1].process.poll() is None:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.1))
        delay = time.monotonic() - begin
        was_running = runs[-1].process.poll() is None
        runs[-1].kill()
        before = done_shards(folder / name)
        for run in runs[:-1]:
            finish(run)
        finish(Precompute(folder, name, workers, runs[-1].task, is_array))
        lost = sum(not same_file(path, status) for path, status in before.items())
        differing = sorted({path for path, _ in set(expected.items()) ^ set(checksums(folder / name).items())})
        bad, killed = bad + bool(lost or differing), killed + was_running
        kind = "array of 2, one killed" if is_array else f"{args.workers} worker(s)"
        when = f"{delay:.2f}" + ("" if was_running else " (had ended)")
        print(
            f"| {trial} | {kind} | {when} | {len(before)} of {num_shards} | {lost} | {' '.join(differing) or 0} |",
            flush=True,
        )
    print(
        f"\n{killed} of {args.trials} runs killed in the middle of their work; {bad} trials with a loss or a difference"
    )
    return int(bad > 0)


class Precompute:
    """A run of the command in its own process group; with ``is_array`` as a task of a SLURM array of two."""

    def __init__(self, folder: Path, name: str, workers: int, task: int = 0, is_array: bool = False) -> None:
        self.task = task
        array = {"ID": task, "MIN": 0, "MAX": 1, "STEP": 1, "COUNT": 2} if is_array else {}
        self.log = folder / f"{name}.{task}.log"
        command = [sys.executable, "-m", "impact_pl", "precompute", f"manifest={folder / 'manifest.jsonl'}"]
        command += [f"out={folder / name}", "clip_seconds=1.28", "samples_per_shard=6", "batch_size=2"]
        command += ["text_encoder=none", f"workers={workers}"]
        environment = os.environ | {f"SLURM_ARRAY_TASK_{key}": str(value) for key, value in array.items()}
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # it had already ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def finish(run: Precompute) -> None:
    if run.process.wait() != 0:
        raise SystemExit(f"the command failed:\n{run.log.read_text()}")


def make_sounds(folder: Path) -> None:
    """Write noises of 0.5 to 6 s at 44.1 kHz in two splits, one of them too short."""
    random_state, records = np.random.default_rng(0), []
    for i in range(NUM_RECORDS):
        seconds = 0.05 if i == 7 else random_state.uniform(0.5, 6)
        noise = 0.3 * random_state.standard_normal(round(seconds * RATE))
        soundfile.write(folder / f"{i}.wav", noise, RATE)
        records.append(Record(f"noise {i}", f"{i}.wav", caption=f"noise {i}", split="valid" if i % 5 == 4 else "train"))
    write_manifest(folder / "manifest.jsonl", records)


def checksums(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def done_shards(folder: Path) -> dict[Path, os.stat_result]:
    return {path: path.stat() for path in folder.rglob("*.tar") if path.with_suffix(".done.json").is_file()}


def same_file(path: Path, status: os.stat_result) -> bool:
    """Check that the file is the original, not one written again."""
    return path.is_file() and (path.stat().st_ino, path.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)


if __name__ == "__main__":
    main()
