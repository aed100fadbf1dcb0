"""Where a training's figures go: metrics.csv, TensorBoard, and the terminal (a bar there, plain lines in a log)."""

import csv
import io
import sys
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from impact_pl.partial import write_whole


class CsvSink:
    """``metrics.csv``: one row a logged step, a column a figure, empty where a row has none.

    A resumed run drops the rows beyond the step that it continues from, then appends. Where it owes the validation of
    that step, it drops that too: a run before it may have made up for it, and have been killed before it could save.
    ``again`` are the figures of that step that stay, if a validation was dropped.
    """

    def __init__(self, path: Path, columns: list[str], resumed_step: int, validation_owed: bool = False):
        self.columns = ["step", *columns]
        self.again: dict[str, float] | None = None
        kept: list[dict] = []
        if path.is_file():
            with path.open(newline="") as file:
                whole = [line for line in file if line.endswith("\n")]  # a kill may have cut the last one
            rows = [row for row in csv.DictReader(whole) if int(row["step"]) <= resumed_step]
            kept = [r for r in rows if not (validation_owed and int(r["step"]) == resumed_step and r["valid/loss"])]
            if len(kept) < len(rows):
                same_step = [row for row in kept if int(row["step"]) == resumed_step]
                self.again = {k: float(v) for row in same_step for k, v in row.items() if v and k != "step"}
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self.columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
        write_whole(path, table.getvalue())
        self._file = path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, self.columns)

    def write(self, step: int, values: dict[str, float]) -> None:
        self._writer.writerow({"step": step, **{name: f"{value:.6g}" for name, value in values.items()}})
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoardSink:
    """Event files in the run directory; ``purge_step`` hides what a run does again, also when it began anew at 0."""

    def __init__(self, folder: Path, resumed_step: int):
        self.writer = SummaryWriter(str(folder), purge_step=resumed_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


def file_sinks(
    run_dir: Path, columns: list[str], resumed_step: int, validation_owed: bool
) -> tuple[CsvSink, TensorBoardSink]:
    """metrics.csv and TensorBoard of a run that continues from ``resumed_step``, perhaps with its validation.

    TensorBoard can hide whole steps only: where one validation has to go, the other figures of its step come again.
    """
    metrics = CsvSink(run_dir / "metrics.csv", columns, resumed_step, validation_owed)
    if metrics.again is None:
        return metrics, TensorBoardSink(run_dir, resumed_step)
    tensorboard = TensorBoardSink(run_dir, resumed_step - 1)
    tensorboard.write(resumed_step, metrics.again)
    return metrics, tensorboard


class LineSink:
    """Plain lines for logs, at most one in ``interval`` seconds (and always validation and the last step)."""

    def __init__(self, max_steps: int, interval: float = 5.0):
        self.max_steps, self.interval = max_steps, interval
        self._last = 0.0

    def write(self, step: int, values: dict[str, float]) -> None:
        now = time.monotonic()
        if now - self._last < self.interval and step < self.max_steps and "valid/loss" not in values:
            return
        self._last = now
        print(f"step {step}/{self.max_steps}  {describe(values, self.max_steps - step)}", flush=True)

    def advance(self, step: int) -> None:
        pass

    def close(self) -> None:
        pass


class BarSink:
    """A progress bar with loss, clips/s and remaining time."""

    def __init__(self, max_steps: int, step: int):
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._task = self._progress.add_task("train", total=max_steps, completed=step, figures="")
        self._progress.start()

    def write(self, step: int, values: dict[str, float]) -> None:
        if "valid/loss" in values:
            self._progress.console.print(f"step {step}  valid loss {values['valid/loss']:.4f}")
        else:
            self._progress.update(self._task, figures=describe(values, None))

    def advance(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def close(self) -> None:
        self._progress.stop()


def terminal_sink(max_steps: int, step: int) -> LineSink | BarSink:
    """A bar in a terminal, lines elsewhere."""
    return BarSink(max_steps, step) if sys.stdout.isatty() else LineSink(max_steps)


def describe(values: dict[str, float], steps_left: int | None) -> str:
    """The few figures that a person watches."""
    if "valid/loss" in values:
        return f"valid loss {values['valid/loss']:.4f}"
    text = f"loss {values['train/loss']:.4f}  {values['throughput/clips_per_second']:.1f} clips/s"
    if steps_left is not None:
        seconds = round(steps_left * values["throughput/seconds_per_step"])
        text += f"  ETA {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return text
