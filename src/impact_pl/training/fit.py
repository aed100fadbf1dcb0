"""One call for a stage of training: start, resume, stop and finish, with everything in one run directory."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from lightning import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from impact_pl.config import TrainConfig
from impact_pl.data.datamodule import LatentDataModule
from impact_pl.errors import UserError
from impact_pl.models.spec import ImpactSpec
from impact_pl.partial import write_whole
from impact_pl.training.callbacks import NOTHING_TO_SAVE, AudioSamples, Checkpoints, TrainingStopped, describe_stop
from impact_pl.training.check import check_config, settle_batch
from impact_pl.training.checkpoint import differences, export, load_averaged, save_model
from impact_pl.training.checkpoint_files import CheckpointFiles, find
from impact_pl.training.guards import StallGuard, StopSignal, keep_handlers, only_training
from impact_pl.training.log import TrainingLog, announce, first_lines, quiet_lightning
from impact_pl.training.slurm import check_tasks, cluster_plugins
from impact_pl.training.start import STAGES, build_spec, check_resume, new_module, say
from impact_pl.training.strategies import build_strategy, check_devices, resolve_precision


def train(config: TrainConfig) -> int:
    """Train one stage to ``trainer.max_steps``, from scratch or from where this run directory stands.

    Returns:
        The process's exit code: 0 when finished, 130, 138 or 143 when SIGINT, SIGUSR1 or SIGTERM
        stopped it (the same call continues).

    Raises:
        ValueError: whatever a user can set right: data, shapes, names, a run directory of another training.
    """
    check_config(config)
    settle_batch(config)
    check_tasks(config.trainer)
    guard = StallGuard(config.trainer.stall_minutes)
    with StopSignal() as stop, only_training(Path(config.runs_dir) / config.name), guard:
        return _train(config, stop, guard)


def _train(config: TrainConfig, stop: StopSignal, guard: StallGuard) -> int:
    if config.stage not in STAGES:
        raise UserError(f"stage={config.stage}: choose one of {', '.join([*STAGES, 'codec'])}")
    quiet_lightning()
    run_dir = Path(config.runs_dir) / config.name
    last = find(run_dir / "checkpoints" / "last.ckpt")
    data = LatentDataModule(config.data, config.seed, with_text=STAGES[config.stage].has_text)
    spec = build_spec(config, data.index)
    if last is not None:
        spec, step = check_resume(config, spec, last)
        if step >= config.trainer.max_steps:
            _export_trained(run_dir, last, step)
            return 0
        say(f"resuming {run_dir} at step {step} of {config.trainer.max_steps}")
    elif config.trainer.max_steps == 0:
        _write_initial(config, spec, data, run_dir / "model")
        return 0
    check_devices(config.trainer)
    module = STAGES[config.stage](spec, config) if last is not None else new_module(config, spec, data.cache)
    plugins = cluster_plugins()
    if stop.requested and not plugins:  # ranks that SLURM started wait for each other: there the first step decides
        say(NOTHING_TO_SAVE)
        return stop.exit_code
    _prepare_run_dir(run_dir, config)
    trainer = build_trainer(config, run_dir, stop, guard, spec, plugins)
    announce(run_dir, first_lines(trainer, module.model, config.stage, data.index.num_samples, config.data.batch_size))
    try:
        trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
    except TrainingStopped:
        say(describe_stop(trainer.global_step))
        # A process that Lightning started ends quietly, or Lightning would kill rank zero for it.
        return stop.exit_code if trainer.is_global_zero or plugins else 0
    except UserError as error:
        raise UserError(_without_worker_traceback(str(error))) from error
    if trainer.is_global_zero:
        # From the checkpoint, which all processes have just written: here the average may be sharded.
        export(run_dir / "checkpoints" / "last.ckpt", run_dir / "model")
        say(f"trained to {trainer.global_step} steps: the model is in {run_dir / 'model'}")
    return 0


def build_trainer(
    config: TrainConfig, run_dir: Path, stop: StopSignal, guard: StallGuard, spec: ImpactSpec, plugins: list[Any]
) -> Trainer:
    """Lightning's trainer with our callbacks in place of its own logging, bar, checkpoints and signal handling."""
    settings = config.trainer
    batch = config.data.batch_size * settings.devices * settings.num_nodes * settings.accumulate_grad_batches
    log = TrainingLog(run_dir, settings.log_every_steps, spec.model.num_timesteps, batch)
    checkpoints = Checkpoints(run_dir / "checkpoints" / "last.ckpt", settings.checkpoint_every_steps, stop)
    samples = [AudioSamples(log, settings.sample_every_steps, config.decoding)] if settings.sample_every_steps else []
    trainer = Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=build_strategy(settings),
        precision=resolve_precision(settings),  # type: ignore[arg-type]
        plugins=[CheckpointFiles(), *plugins],
        max_steps=settings.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=settings.accumulate_grad_batches,
        gradient_clip_val=config.optim.gradient_clip,
        val_check_interval=max(1, settings.validate_every_steps) * settings.accumulate_grad_batches,
        check_val_every_n_epoch=None,
        limit_val_batches=None if settings.validate_every_steps else 0,
        num_sanity_val_steps=0,
        inference_mode=False,  # weights that FSDP2 has gathered in inference mode could not be gathered again outside
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[log, guard, *samples, checkpoints],
        default_root_dir=run_dir,
    )
    keep_handlers(trainer)
    return trainer


def _without_worker_traceback(message: str) -> str:
    """What a dataset's error says, without the traceback that a DataLoader worker puts before it."""
    return (
        message.strip().rpartition("\nimpact_pl.errors.UserError: ")[2]
        if " DataLoader worker process " in message
        else message
    )


@rank_zero_only
def _prepare_run_dir(run_dir: Path, config: TrainConfig) -> None:
    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    write_whole(run_dir / "config.yaml", yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
    # A model of fewer steps is none from here on: were it left, a kill between the last checkpoint and the export would
    # pass it off as the trained one.
    (run_dir / "model" / "config.json").unlink(missing_ok=True)


@rank_zero_only
def _write_initial(config: TrainConfig, spec: ImpactSpec, data: LatentDataModule, folder: Path) -> None:
    """The model before its first step; one that is there already is kept, for it may have been trained."""
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
