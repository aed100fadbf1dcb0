"""Build Lightning's Trainer with this project's callbacks, loggers and checkpoints, for every stage and the codec."""

import dataclasses
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from impact_pl.config import TrainConfig
from impact_pl.data.loader import lost_worker
from impact_pl.errors import UserError
from impact_pl.secrets import without_secrets
from impact_pl.training.callbacks import AudioSamples, Checkpoints, TrainingStopped, describe_stop
from impact_pl.training.checkpoint_files import CheckpointFiles
from impact_pl.training.failure import FirstFailure, without_worker_traceback
from impact_pl.training.log import TrainingLog, metric_names
from impact_pl.training.loggers import LineLogger, build_loggers, finish_runs, is_terminal
from impact_pl.training.process import StallGuard, StopSignal, as_launcher, is_launched_by_lightning, say
from impact_pl.training.strategies import build_strategy, resolve_precision

# Parts of Lightning outside its public API that this package uses, because no public way exists.
# ``tests/training/test_lightning_internals.py`` fails, and names the part, when a new Lightning lacks one.
CHECKED_WITH = "2.6.6"
PRIVATE = {  # module:attribute -> what it is used for
    "lightning.pytorch.trainer.connectors.signal_connector:_SignalConnector.register_signal_handlers": (
        "replaced by keep_handlers"
    ),
    "lightning.pytorch.plugins.precision.deepspeed:DeepSpeedPrecision.backward": "deepspeed.EnginePrecision",
    "lightning.pytorch.strategies:DeepSpeedStrategy._format_config": "overridden by deepspeed.ZeroStrategy",
    "lightning.pytorch.strategies:DeepSpeedStrategy._format_batch_size_and_grad_accum_config": "called there",
    "lightning.pytorch.strategies:DeepSpeedStrategy._init_deepspeed_distributed": "called there",
    "lightning.pytorch.strategies:DeepSpeedStrategy._setup_model_and_optimizer": "overridden there",
}
LOOP_STATE = (  # of trainer.fit_loop.state_dict(), written by checkpoint.rewind_loops
    "epoch_progress",
    "epoch_loop.state_dict",
    "epoch_loop.batch_progress",
    "epoch_loop.scheduler_progress",
    "epoch_loop.automatic_optimization.optim_progress",
)


@dataclass
class Progress:
    """Position at which a training run continues."""

    step: int = 0
    kept_steps: int = 0  # steps whose logged metrics are kept; one less if a step's validation is repeated
    logger_versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, checkpoint: dict[str, Any]) -> "Progress":
        step = checkpoint["global_step"]
        is_owed = checkpoint["callbacks"]["Checkpoints"]["validation_owed"]
        return cls(step, step - is_owed, checkpoint["logger_versions"])


@dataclass
class RunContext:
    """Inputs of a training run besides its configuration."""

    stop: StopSignal
    guard: StallGuard
    plugins: list[Any]  # cluster plugins for Lightning
    callbacks: list[Callback]
    loggers: Sequence[Logger] | None  # override the configured ones


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training run."""

    step: int  # optimizer steps so far
    model: Path | None  # folder of the finished model (stage codec: of the codec); None if steps remain
    exit_code: int = 0  # 130, 138 or 143: stopped by SIGINT, SIGUSR1 or SIGTERM; the same call resumes


def build_trainer(
    config: TrainConfig, run_dir: Path, context: RunContext, num_timesteps: int | None, progress: Progress
) -> Trainer:
    """Build the Trainer of a run.

    Args:
        config: The complete configuration.
        run_dir: Folder for all outputs.
        context: Guards, plugins, and additional callbacks and loggers.
        num_timesteps: Diffusion timesteps; None for the codec, which has none and generates no samples.
        progress: Position at which it continues.
    """
    settings = config.trainer
    batch = config.data.batch_size * settings.devices * settings.num_nodes * settings.accumulate_grad_batches
    names = metric_names(num_timesteps)
    loggers = context.loggers
    if loggers is None:
        loggers = build_loggers(config.logger or {}, run_dir, names, progress.kept_steps, progress.logger_versions)
    callbacks: list[Any] = [
        FirstFailure(run_dir),
        TrainingLog(settings.log_every_steps, num_timesteps, batch, without_secrets(dataclasses.asdict(config))),
        *([TQDMProgressBar(refresh_rate=10)] if is_terminal() else []),
        context.guard,
        *_samples(config, loggers, num_timesteps),
        *context.callbacks,
        Checkpoints(run_dir / "checkpoints" / "last.ckpt", settings.checkpoint_every_steps, context.stop),
    ]
    trainer = Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=build_strategy(settings),
        precision=resolve_precision(settings),  # type: ignore[arg-type]
        plugins=[CheckpointFiles(), *context.plugins],
        max_steps=settings.max_steps,
        max_epochs=-1,  # steps count; the complete training is one epoch
        accumulate_grad_batches=settings.accumulate_grad_batches,
        gradient_clip_val=config.optim.gradient_clip,
        val_check_interval=max(1, settings.validate_every_steps) * settings.accumulate_grad_batches,
        check_val_every_n_epoch=None,  # validation is scheduled by steps
        limit_val_batches=None if settings.validate_every_steps else 0,
        num_sanity_val_steps=0,  # a resumed run would otherwise log and count differently
        inference_mode=False,  # weights that FSDP2 gathers in inference mode cannot be gathered again outside
        use_distributed_sampler=False,  # data/order.py distributes the samples, equally for any number of processes
        log_every_n_steps=0,  # TrainingLog writes rows: means since the last row, exact across interruptions
        logger=[*loggers, *([] if is_terminal() else [LineLogger(settings.max_steps)])],
        enable_checkpointing=False,  # Checkpoints saves atomically, after everything of its step is logged
        enable_model_summary=False,  # log.first_lines tells the parameters; FLOPs are 0 without an example input
        enable_progress_bar=is_terminal(),  # LineLogger prints to logs instead
        callbacks=callbacks,
        default_root_dir=run_dir,
    )
    keep_handlers(trainer)
    return trainer


def keep_handlers(trainer: Trainer) -> None:
    """Keep out Lightning's SIGTERM handler: it talks to the other ranks from inside itself, and can deadlock.

    No argument of Trainer switches it off.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def quiet_lightning() -> None:
    """Silence Lightning's tips, and its notices about choices that are made here on purpose."""
    for name in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    choices = (
        "not have many workers",
        "dataloader is not",
        "in eval mode",
        "isinstance.treespec",
        "srun",
    )
    for text in (*choices, "across ranks is zero"):  # the last: no clips to validate on
        warnings.filterwarnings("ignore", message=f"(?s).*{text}")


def _samples(config: TrainConfig, loggers: Sequence[Logger], num_timesteps: int | None) -> list[Callback]:
    every = config.trainer.sample_every_steps
    if not every or num_timesteps is None:
        return []
    if not any(isinstance(logger, TensorBoardLogger) for logger in loggers):
        say("no audio samples: they are written by logger=tensorboard")
        return []
    return [AudioSamples(every, config.decoding)]


def fit(
    trainer: Trainer,
    module: LightningModule,
    context: RunContext,
    last: Path | None,
    data: LightningDataModule | None = None,
) -> int:
    """Run ``trainer.fit`` and return the exit code of this process: 0, or that of the signal that stopped the training.

    Every rank returns that code, except processes that Lightning itself started. Those return 0, because Lightning
    would otherwise kill rank zero.
    """
    is_child = is_launched_by_lightning()
    try:
        with as_launcher():
            trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
    except TrainingStopped:
        say(describe_stop(trainer.global_step))
        return 0 if is_child else context.stop.exit_code
    except UserError as error:
        raise UserError(without_worker_traceback(str(error))) from error
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        lost = lost_worker()
        if not lost:
            cause = FirstFailure(Path(trainer.default_root_dir)).error_of_another(trainer.global_rank)
            if cause is not None:
                raise cause from error
            raise
        raise UserError(
            f"{lost}; the last checkpoint is kept. The kernel kills (SIGKILL) where memory runs out: try a smaller "
            "data.num_workers"
        ) from error
    finally:
        if context.loggers is None:
            finish_runs(trainer)
    return 0
