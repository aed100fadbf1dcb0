"""Run a training stage: start, resume, stop and finish, with all files in one run directory."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import yaml
from lightning import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from impact_pl.config import TrainConfig
from impact_pl.data.datamodule import LatentDataModule
from impact_pl.data.loader import end_workers
from impact_pl.errors import UserError
from impact_pl.models.spec import ImpactSpec
from impact_pl.partial import write_whole
from impact_pl.secrets import without_secrets
from impact_pl.training.callbacks import NOTHING_TO_SAVE
from impact_pl.training.check import build_spec, check_config, settle_batch
from impact_pl.training.checkpoint import differences, export, load_averaged, save_model
from impact_pl.training.checkpoint_files import find, set_aside
from impact_pl.training.codec import check_codec_config, train_codec
from impact_pl.training.guards import StallGuard, StopSignal, only_training
from impact_pl.training.launch import check_processes, cluster_plugins
from impact_pl.training.log import announce, first_lines
from impact_pl.training.loggers import check_loggers
from impact_pl.training.start import STAGES, Progress, check_resume, new_module, say
from impact_pl.training.strategies import check_devices
from impact_pl.training.trainer import RunContext, TrainingResult, build_trainer, fit, quiet_lightning


def train(
    config: TrainConfig, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] | None = None
) -> TrainingResult:
    """Train one stage to ``trainer.max_steps``, from scratch or from the last checkpoint in its run directory.

    Args:
        config: Training configuration. Stage ``codec`` trains the built-in codec's decoder.
        callbacks: Additional Lightning callbacks.
        loggers: Lightning loggers to use instead of those in ``config.logger``.

    Raises:
        UserError: The user can fix it: data, shapes, names, or the run directory of another training run.
    """
    quiet_lightning()
    is_codec = config.stage == "codec"
    check_config(config)
    if is_codec:
        check_codec_config(config)
    else:
        settle_batch(config)
    check_processes(config.trainer)
    check_loggers(config.logger or {})
    guard = StallGuard(config.trainer.stall_minutes)
    with StopSignal() as stop, only_training(Path(config.runs_dir) / config.name), guard:
        context = RunContext(stop, guard, cluster_plugins(), list(callbacks), loggers)
        try:
            return train_codec(config, context) if is_codec else _train(config, context)
        finally:
            end_workers()


def _train(config: TrainConfig, context: RunContext) -> TrainingResult:
    if config.stage not in STAGES:
        raise UserError(f"stage={config.stage}: choose one of {', '.join([*STAGES, 'codec'])}")
    run_dir = Path(config.runs_dir) / config.name
    last = find(run_dir / "checkpoints" / "last.ckpt")
    data = LatentDataModule(config.data, config.seed, with_text=STAGES[config.stage].has_text)
    spec = build_spec(config, data.index, STAGES[config.stage].has_text)
    progress = Progress()
    if last is not None:
        spec, progress = check_resume(config, spec, last, data)
        if progress.step >= config.trainer.max_steps:
            _export_trained(run_dir, last, progress.step)
            return TrainingResult(progress.step, run_dir / "model")
        say(f"resuming {run_dir} at step {progress.step} of {config.trainer.max_steps}")
    elif config.trainer.max_steps == 0:
        _write_initial(config, spec, data, run_dir / "model")
        return TrainingResult(0, run_dir / "model")
    check_devices(config.trainer)
    module = STAGES[config.stage](spec, config) if last is not None else new_module(config, spec, data.cache)
    if context.stop.requested and not context.plugins:  # SLURM's and torchrun's ranks agree at the first step
        say(NOTHING_TO_SAVE)
        return TrainingResult(0, None, context.stop.exit_code)
    trainer = build_trainer(config, run_dir, context, module.model.spec.model.num_timesteps, progress)
    _prepare_run_dir(run_dir, config, last)
    announce(run_dir, first_lines(trainer, module.model, config.stage, data.index.num_samples, config.data.batch_size))
    exit_code = fit(trainer, module, context, last, data)
    if exit_code:
        return TrainingResult(trainer.global_step, None, exit_code)
    if trainer.is_global_zero:
        # Read the checkpoint that all processes have just written, because here the average may be sharded.
        export(run_dir / "checkpoints" / "last.ckpt", run_dir / "model")
        say(f"trained to {trainer.global_step} steps: the model is in {run_dir / 'model'}")
    return TrainingResult(trainer.global_step, run_dir / "model")


@rank_zero_only
def _prepare_run_dir(run_dir: Path, config: TrainConfig, last: Path | None) -> None:
    path = run_dir / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    set_aside(path, last)
    stored = without_secrets(dataclasses.asdict(config))
    write_whole(run_dir / "config.yaml", yaml.safe_dump(stored, sort_keys=False))
    # A model of fewer steps is none from here on: were it left, a kill between the last checkpoint and the export would
    # pass it off as the trained one.
    (run_dir / "model" / "config.json").unlink(missing_ok=True)


@rank_zero_only
def _write_initial(config: TrainConfig, spec: ImpactSpec, data: LatentDataModule, folder: Path) -> None:
    """Write the model before its first step. An existing one is kept, since it may be trained."""
    if not (folder / "config.json").is_file():
        save_model(new_module(config, spec, data.cache).ema.model, folder)
        say(f"trainer.max_steps=0: the initial model is in {folder}")
        return
    changed = differences(load_averaged(folder).spec, spec, text=True)
    if changed:
        raise UserError(f"{folder} holds another model: {'; '.join(changed)}. Choose another name=..., or delete it")
    say(f"trainer.max_steps=0: nothing to do, there is a model in {folder} already; delete it to write the initial one")


@rank_zero_only
def _export_trained(run_dir: Path, last: Path, step: int) -> None:
    if not (run_dir / "model" / "config.json").is_file():
        export(last, run_dir / "model")
    say(f"already trained to {step} steps: the model is in {run_dir / 'model'}")
