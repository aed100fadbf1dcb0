"""Lightning loggers by name (``logger=tensorboard``, ``logger=[csv,wandb]``), configured to resume a run exactly."""

import csv
import importlib.util
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from lightning import Trainer
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from impact_pl.errors import UserError
from impact_pl.partial import write_whole


class MetricsTable:
    """``metrics.csv``: one row per logged step, one column per metric, empty cells for missing values.

    Rows after ``kept_steps`` are dropped, because a resumed run writes them again. A new metric adds a column.
    """

    def __init__(self, path: Path, columns: list[str], kept_steps: int):
        self.path, self.columns = path, ["step", *columns]
        self._file: IO[str] | None = None
        self._rewrite([row for row in self._read() if int(row["step"]) <= kept_steps])

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}  # a run is one epoch
        if not values.keys() <= set(self.columns):
            self._rewrite(self._read(), [name for name in values if name not in self.columns])
        self._writer.writerow({"step": step, **{name: f"{value:.6g}" for name, value in values.items()}})
        self._file.flush()  # type: ignore[union-attr]

    def save(self) -> None:
        """Do nothing; every row is flushed when written."""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(line for line in file if line.endswith("\n")))  # the last may be cut
        self.columns += [name for name in (rows[0] if rows else {}) if name not in self.columns]
        return rows

    def _rewrite(self, rows: list[dict[str, str]], new_columns: list[str] | None = None) -> None:
        self.columns += new_columns or []
        self.close()
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, table.getvalue())
        self._file = self.path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, self.columns)


class MetricsLogger(CSVLogger):
    """Lightning's CSVLogger for a run directory.

    This is a subclass because Lightning's logger deletes an existing metrics.csv, whereas a resumed run keeps the rows
    up to its step.
    """

    def __init__(self, run_dir: Path, columns: list[str], kept_steps: int):
        super().__init__(run_dir, name="", version="")
        self.columns, self.kept_steps = columns, kept_steps
        self._table: MetricsTable | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._table is None:
            self._table = MetricsTable(Path(self.save_dir) / "metrics.csv", self.columns, self.kept_steps)
        return self._table

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        assert step is not None
        self.experiment.log_metrics(metrics, step)

    def log_hyperparams(self, params: Any = None) -> None:
        """Do nothing; config.yaml contains the hyperparameters."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._table is not None:
            self._table.close()


class LineLogger(Logger):
    """Print plain lines to stdout where a progress bar cannot be drawn, such as in a job's log.

    At most one line is printed per ``interval`` seconds, and always one for a validation and for the last step.
    """

    name, version = "lines", 0

    def __init__(self, max_steps: int, interval: float = 5.0):
        super().__init__()
        self.max_steps, self.interval = max_steps, interval
        self._last = 0.0

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        now = time.monotonic()
        if "valid/loss" in metrics:
            text = f"valid loss {metrics['valid/loss']:.4f}"
        elif "train/loss" in metrics and (now - self._last >= self.interval or step >= self.max_steps):
            seconds = round((self.max_steps - step) * metrics["usage/seconds_per_step"])
            text = f"loss {metrics['train/loss']:.4f}  {metrics['usage/clips_per_second']:.1f} clips/s"
            text += f"  ETA {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        else:
            return
        self._last = now
        print(f"step {step}/{self.max_steps}  {text}", flush=True)

    def log_hyperparams(self, params: Any = None) -> None:
        """Do nothing; config.yaml contains the hyperparameters."""


def _tensorboard(run_dir: Path, columns: list[str], kept_steps: int, version: str | None, **settings: Any) -> Logger:
    # purge_step hides the steps that a run repeats, including a run restarted at 0
    return TensorBoardLogger(
        run_dir, name="", version="", default_hp_metric=False, purge_step=kept_steps + 1, **settings
    )


def _csv(run_dir: Path, columns: list[str], kept_steps: int, version: str | None) -> Logger:
    return MetricsLogger(run_dir, columns, kept_steps)


def _wandb(run_dir: Path, columns: list[str], kept_steps: int, version: str | None, **settings: Any) -> Logger:
    _require("wandb", "wandb")
    settings = {"name": run_dir.name} | {name: value for name, value in settings.items() if value not in ("", None)}
    return WandbLogger(save_dir=run_dir, id=version, resume="allow", **settings)


def _mlflow(run_dir: Path, columns: list[str], kept_steps: int, version: str | None, **settings: Any) -> Logger:
    _require("mlflow", "mlflow")
    uri = settings.pop("tracking_uri", "") or os.environ.get("MLFLOW_TRACKING_URI") or f"file:{run_dir / 'mlruns'}"
    if uri.startswith("file:"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3.17 needs this to use its file store
    return MLFlowLogger(tracking_uri=uri, run_id=version, **{"run_name": run_dir.name} | settings)


LOGGERS: dict[str, Callable[..., Logger]] = {
    "tensorboard": _tensorboard,
    "csv": _csv,
    "wandb": _wandb,
    "mlflow": _mlflow,
}


def check_loggers(settings: dict[str, dict[str, Any]]) -> None:
    """Check that ``logger`` names known and installed loggers.

    Raises:
        UserError: A name is unknown, or its package is missing.
    """
    for name in settings:
        if name not in LOGGERS:
            raise UserError(f"logger={name}: choose among {', '.join(LOGGERS)}")
        if name in ("wandb", "mlflow"):
            _require(name, name)


def build_loggers(
    settings: dict[str, dict[str, Any]],
    run_dir: Path,
    columns: list[str],
    kept_steps: int = 0,
    versions: dict[str, str] | None = None,
) -> list[Logger]:
    """Build the loggers in ``settings``, with Lightning's arguments for each.

    Args:
        settings: name -> arguments, like ``logger`` in a configuration.
        run_dir: Folder for their files.
        columns: First columns of metrics.csv.
        kept_steps: Drop metrics of later steps if the logger supports it; a resumed run logs them again.
        versions: name -> id of the run to resume (wandb, mlflow).
    """
    check_loggers(settings)
    built = []
    for name, arguments in settings.items():
        try:
            built.append(LOGGERS[name](run_dir, columns, kept_steps, (versions or {}).get(name), **arguments))
        except TypeError as error:
            raise UserError(f"logger.{name}: {error}") from error
    return built


def _require(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"logger={package} needs the package {package}: pip install 'impact-pl[{extra}]'")


def logger_versions(trainer: Trainer) -> dict[str, str]:
    """Collect name -> id of the runs that a resumed training has to continue."""
    kinds = {"wandb": WandbLogger, "mlflow": MLFlowLogger}
    found = {
        name: logger.version for name, kind in kinds.items() for logger in trainer.loggers if isinstance(logger, kind)
    }
    return {name: str(version) for name, version in found.items() if version}


def finish_runs(trainer: Trainer) -> None:
    """Let wandb write its remaining data, which Lightning would leave to the end of the process."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.experiment.finish()


def tensorboard_writer(trainer: Trainer) -> SummaryWriter | None:
    """Return TensorBoard's writer if it is among the loggers, on rank zero only."""
    if not trainer.is_global_zero:
        return None
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def is_terminal() -> bool:
    return sys.stdout.isatty()
