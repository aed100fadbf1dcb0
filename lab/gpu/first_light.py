"""`python -m lab.gpu.first_light`: what this project does on a GPU, in one table that is saved after every row.

A part that fails becomes a row with its error, and the next part runs. With ``--device cpu`` everything is tiny, which
tries the script itself.
"""

import argparse
import dataclasses
import functools
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from impact_pl.cli.compose import compose
from impact_pl.config import PRESETS, DecodingConfig, TrainConfig
from impact_pl.errors import user_errors
from impact_pl.inference.engine import build_engine
from impact_pl.precision import PRECISIONS, find_device, resolve
from lab.benchmark import subject as subjects
from lab.benchmark.latency import DecodingVariant, Setting
from lab.benchmark.machine import describe
from lab.benchmark.subject import Subject
from lab.benchmark.timing import in_turns, seconds_of
from lab.benchmark.training import BF16, OURS, REFERENCE, Stepper, StepVariant
from lab.markdown import number, table

COLUMNS = ["part", "what", "s", "times the first", "peak, GiB", "note"]
CHANGES = 8  # batches with other captions, for the rows of ragged captions


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements: of a GPU, or tiny ones of a CPU, which only try the script."""

    model: str = "base"
    batches: tuple[int, ...] = (1, 8)
    iterations: int = 64
    diffusion_steps: int = 100
    duration: float = 10.24
    training_batch: int = 32


TINY = Sizes("tiny", (1, 2), 2, 2, 1.28, 2)


@dataclass
class Row:
    """One line of the table; ``seconds`` of a part's first row is what the others are compared with."""

    what: str
    seconds: float | None = None
    note: str = ""


class Table:
    """The table, as Markdown in a file that is complete after every row."""

    def __init__(self, path: Path, device: torch.device, name: str) -> None:
        self.path, self.device, self.name = path, device, name
        self.rows: list[list[str]] = []

    def run(self, part: str, rows: Callable[[], Iterator[Row]]) -> None:
        """Add the rows of a part, and the error that ends it."""
        first: float | None = None
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            for row in rows():
                first = row.seconds if first is None else first
                self.add(part, row, first)
        except Exception as error:  # the next part may run, and a machine is lent for minutes only
            self.add(part, Row("failed", note=f"{type(error).__name__}: {error}".splitlines()[0][:200]), None)

    def add(self, part: str, row: Row, first: float | None) -> None:
        peak = ""
        if self.device.type == "cuda":
            peak = number(torch.cuda.max_memory_allocated(self.device) / 2**30)
            torch.cuda.reset_peak_memory_stats(self.device)
        times = number(first / row.seconds) if first and row.seconds else ""
        self.rows.append([part, row.what, number(row.seconds), times, peak, row.note])
        text = f"# First light: {self.name}\n\n{table(COLUMNS, self.rows)}\n"
        self.path.write_text(text, encoding="utf-8")
        print(" | ".join(self.rows[-1]), flush=True)


def gpu_tests(device: torch.device) -> Iterator[Row]:
    """Run the tests marked gpu; without a GPU they are only collected."""
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    command += [] if device.type == "cuda" else ["--collect-only"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    lines = done.stdout.strip().splitlines() or ["nothing was printed"]
    failed = [line for line in lines if line.startswith("FAILED")]
    yield Row("pytest -m gpu", time.monotonic() - start, "; ".join([lines[-1], *failed])[:300])


def decoding(made: Subject, sizes: Sizes, batch: int) -> Iterator[Row]:
    """Time decoding alone, in every engine and precision that the device computes in."""
    reduced = resolve("auto", made.device)
    own = DecodingConfig(num_iterations=sizes.iterations, num_diffusion_steps=sizes.diffusion_steps)
    variants = [
        DecodingVariant(f"{engine}, {precision}", dataclasses.replace(own, engine=engine, precision=precision))
        for engine in ("reference", "fused")
        for precision in dict.fromkeys(["32-true", reduced])
    ]
    if sizes.model != TINY.model:
        fast = dataclasses.replace(own, **PRESETS["fast"])
        variants.append(DecodingVariant(f"preset fast, {reduced}", fast))
    setting = Setting(made, batch, sizes.duration, 2)
    for variant in variants:
        call = setting.generation(variant.decoding, build_engine(made.model, variant.decoding))
        seconds = in_turns({"": call}, setting.repeats, made.device)[""]
        yield Row(f"{variant.name}, batch {batch}", seconds, f"{seconds / batch / sizes.duration:.4f} of real time")


@torch.no_grad()
def codec(made: Subject, sizes: Sizes) -> Iterator[Row]:
    """Time the codec in float32 and reduced precision."""
    assert made.codec is not None
    for batch in sizes.batches:
        latents = made.latents(batch, made.num_frames(sizes.duration))
        for precision in dict.fromkeys(["32-true", resolve("auto", made.device)]):
            decode = functools.partial(made.codec.decoder_in(PRECISIONS[precision]), latents, None)
            yield Row(f"{precision}, batch {batch}", in_turns({"": decode}, 3, made.device)[""])


def steps(stepper: Stepper, variants: dict[str, StepVariant]) -> Iterator[Row]:
    """Time training steps on captions of one length."""
    for name, variant in variants.items():
        stepper.step(variant)
        stepper.step(variant)
        seconds = statistics.median(seconds_of(functools.partial(stepper.step, variant)) for _ in range(5))
        yield Row(f"{name}, batch {stepper.batch}", seconds, f"{stepper.batch / seconds:.3g} clips/s")


def ragged(stepper: Stepper, variant: StepVariant) -> Iterator[Row]:
    """Time steps whose captions have other lengths in every batch: other shapes, and a mask on attention."""
    text = stepper.texts[True]
    assert text is not None, "the model has no text"
    same, lengths = text.mask, torch.Generator().manual_seed(0)
    stepper.step(variant)
    yield Row("captions of one length", seconds_of(functools.partial(stepper.step, variant)))
    times = []
    for _ in range(CHANGES):
        counts = torch.randint(1, same.shape[1] + 1, (len(same), 1), generator=lengths)
        mask = (torch.arange(same.shape[1]) < counts).to(same.device)
        stepper.texts[True] = dataclasses.replace(text, mask=mask)
        times.append(seconds_of(functools.partial(stepper.step, variant)))
    stepper.texts[True] = text
    note = f"slowest {max(times):.3g} s"
    if variant.compile:
        from torch._dynamo.utils import counters

        note += f"; {counters['stats'].get('unique_graphs', 0)} graphs compiled"
    yield Row(f"captions of {CHANGES} lengths", statistics.median(times), note)


def profiled(call: Callable[[], object], device: torch.device, path: Path) -> Iterator[Row]:
    """Profile one call after two others, and write the operators' table to ``path``."""
    call(), call()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities, record_shapes=False) as found:
        seconds = seconds_of(call)
    averages = found.key_averages()
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    path.write_text(averages.table(sort_by=key, row_limit=40), encoding="utf-8")
    busy = sum(getattr(each, key) for each in averages) / 1e6
    top = sorted(averages, key=lambda each: -getattr(each, key))[:3]
    shares = ", ".join(f"{each.key[:40]} {getattr(each, key) / 1e6 / max(busy, 1e-9):.0%}" for each in top)
    yield Row("one call", seconds, f"{path.name}: {busy:.3g} s in kernels; {shares}")


def build(sizes: Sizes, device: torch.device, parts: bool) -> Subject:
    config = compose("train", TrainConfig, [f"model={sizes.model}"]).model
    return subjects.named(sizes.model, config, sizes.duration, device, parts)


@user_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.gpu.first_light", description="Measure a GPU in one table.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/first_light"))
    parser.add_argument("--without", nargs="*", default=[], help="parts to leave out, by the first word of their name")
    args = parser.parse_args(argv)
    device = torch.device(find_device(args.device))
    sizes = TINY if device.type == "cpu" else Sizes()
    args.out.mkdir(parents=True, exist_ok=True)
    shown = Table(args.out / "first_light.md", device, describe(device)["name"])

    def run(part: str, rows: Callable[[], Iterator[Row]]) -> None:
        if part.split()[0] not in args.without:
            shown.run(part, rows)
            gc.collect()

    run("tests", functools.partial(gpu_tests, device))
    made = build(sizes, device, parts=True)
    for batch in sizes.batches:
        run(f"decoding {batch}", functools.partial(decoding, made, sizes, batch))
    run("codec", functools.partial(codec, made, sizes))
    own = DecodingConfig(num_iterations=sizes.iterations, num_diffusion_steps=sizes.diffusion_steps, precision="auto")
    call = Setting(made, 1, sizes.duration, 1).generation(own, build_engine(made.model, own))
    run("profile of a decoding", functools.partial(profiled, call, device, args.out / "decoding.txt"))
    train(run, sizes, device, args.out)


def train(run: Callable, sizes: Sizes, device: torch.device, out: Path) -> None:
    """Measure training steps, on a model of its own."""
    precision = "bf16" if resolve("auto", device) == "bf16" else "32-true"
    ours = dataclasses.replace(OURS, precision=precision)
    compiled = dataclasses.replace(ours, compile=True)
    made = build(sizes, device, parts=False)
    stepper = Stepper(made, sizes.training_batch, made.num_frames(sizes.duration))
    variants = {
        "reference, 32-true": REFERENCE,
        f"reference, {precision}": dataclasses.replace(BF16, precision=precision),
    }
    run("training", lambda: steps(stepper, variants | {f"ours, {precision}": ours}))
    run("ragged captions", lambda: ragged(stepper, ours))
    run("profile of a step", lambda: profiled(lambda: stepper.step(ours), device, out / "step.txt"))
    run("compiled step", lambda: steps(stepper, {f"ours, {precision}": ours, "compiled": compiled}))
    run("compiled, ragged captions", lambda: ragged(stepper, compiled))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
