"""Run a training stage: start, resume, stop and finish, with all files in one run directory."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
import yaml
from lightning import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from impact_pl.config import DecodingConfig, TrainConfig
from impact_pl.data.cache import ShardCache
from impact_pl.data.datamodule import LatentDataModule
from impact_pl.data.loader import end_workers
from impact_pl.data.remote import join
from impact_pl.data.shards import LatentDataset
from impact_pl.errors import UserError
from impact_pl.models.heads import head_class
from impact_pl.models.impact import Impact
from impact_pl.models.mar import load_mar
from impact_pl.models.spec import ImpactSpec, find_model
from impact_pl.partial import write_whole
from impact_pl.secrets import without_secrets
from impact_pl.training.callbacks import NOTHING_TO_SAVE
from impact_pl.training.check import batch_change, build_spec, check_config, settle_batch
from impact_pl.training.checkpoint import (
    SHAPE_FIELDS,
    differences,
    export,
    inherit_statistics,
    load_averaged,
    open_checkpoint,
    read_checkpoint_spec,
    read_lora,
    save_model,
)
from impact_pl.training.checkpoint_files import find, set_aside
from impact_pl.training.codec import check_codec_config, train_codec
from impact_pl.training.distillation import Distillation
from impact_pl.training.log import announce, first_lines
from impact_pl.training.loggers import check_loggers
from impact_pl.training.lora import plain_model
from impact_pl.training.modules import ImpactTraining, TextConditionalTraining, UnconditionalPretraining
from impact_pl.training.process import StallGuard, StopSignal, check_processes, cluster_plugins, only_training, say
from impact_pl.training.strategies import check_devices
from impact_pl.training.trainer import Progress, RunContext, TrainingResult, build_trainer, fit, quiet_lightning

STAGES: dict[str, type[ImpactTraining]] = {
    module.stage: module for module in (UnconditionalPretraining, TextConditionalTraining, Distillation)
}
MAR = "mar:"
BUILTIN = "builtin"
LEARNED_DECODING = ("temperature", "min_alpha_bar", "guidance_scale")  # settings that stage distill learns


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
    stored = without_secrets(asdict(config))
    write_whole(run_dir / "config.yaml", yaml.safe_dump(stored, sort_keys=False))
    # Remove the model of an earlier, shorter run: after a kill between the last checkpoint and the export, it would
    # pass for the trained one.
    (run_dir / "model" / "config.json").unlink(missing_ok=True)


@rank_zero_only
def _write_initial(config: TrainConfig, spec: ImpactSpec, data: LatentDataModule, folder: Path) -> None:
    """Write the model before its first step. An existing one is kept, since it may be trained."""
    if not (folder / "config.json").is_file():
        save_model(plain_model(new_module(config, spec, data.cache).ema.model, config.lora), folder)
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


def check_resume(
    config: TrainConfig, spec: ImpactSpec, last: Path, data: LatentDataModule
) -> tuple[ImpactSpec, Progress]:
    """Return the spec to resume with (including the checkpoint's statistics), and the position.

    Raises:
        UserError: The checkpoint belongs to another training run, or to other data.
    """
    opened = open_checkpoint(last)
    checkpoint, stored = opened.content, opened.content["hyper_parameters"]
    old = read_checkpoint_spec(opened)
    if config.init_from == BUILTIN:
        spec = _as_builtin(spec, old)
    changed = differences(old, spec, text=True)
    if stored["stage"] != config.stage:
        changed.insert(0, f"stage {stored['stage']} -> {config.stage}")
    before, now = asdict(read_lora(opened)), asdict(config.lora)
    changed += [f"lora.{name} {before[name]} -> {value}" for name, value in now.items() if before[name] != value]
    if config.stage == "distill":  # see training/distillation.py
        pairs = {name: (old.decoding.get(name), spec.decoding.get(name)) for name in LEARNED_DECODING}
        changed += [f"decoding.{name} {was} -> {now}" for name, (was, now) in pairs.items() if was != now]
    if changed:
        raise UserError(
            f"{last.parent.parent} holds another training: {'; '.join(changed)}. Choose another name=..., set these "
            "back, or delete the directory"
        )
    data.check_state(checkpoint["LatentDataModule"])
    if line := batch_change(config, checkpoint["LatentDataModule"].get("global_batch_size")):
        say(line)
    return inherit_statistics(old, spec), Progress.of(checkpoint)


def new_module(config: TrainConfig, spec: ImpactSpec, cache: ShardCache | None = None) -> ImpactTraining:
    """Build a module with random weights, or with those of ``init_from``.

    Args:
        config: Training configuration.
        spec: Specification of its model.
        cache: Cache of its shards, for a head that is fitted to patches first.

    Raises:
        UserError: ``init_from`` does not exist or is another model, or there are too few patches for the head.
    """
    source = config.init_from
    if source and not source.startswith(MAR):
        folder = find_model(source)  # also resolves builtin
        if not folder.exists():
            raise UserError(
                f"init_from={source}: there is no such run. Train it first (impact train "
                f"experiment={Path(source).name} ..., if it is that experiment's directory), or say where it is"
            )
        module = _from_impact(config, spec, load_averaged(folder))
    else:
        module = STAGES[config.stage](spec, config)
        if source:
            say(str(load_mar(module.model, source[len(MAR) :])))
        elif config.stage == "text":
            say("init_from is empty: stage text starts from random weights, without pre-training")
        if module.model.head.num_fit_patches:
            _fit_head(config, module.model, cache)
    module.ema.reset(module.model)
    return module


def _fit_head(config: TrainConfig, model: Impact, cache: ShardCache | None) -> None:
    """Fit the head to patches of the training set, from clips that the seed selects.

    Every process does this by itself with the same result, before any of them trains.
    """
    clips = LatentDataset(join(config.data.path, "train"), cache, with_text=False)
    generator = torch.Generator().manual_seed(config.seed)
    patches: list[Tensor] = []
    for i in torch.randperm(len(clips), generator=generator).tolist():
        latents = model.whiten(clips[i]["moments"][None], generator)
        patches.append(model.patchify(latents)[0])  # (N, P)
        if sum(map(len, patches)) >= model.head.num_fit_patches:
            break
    seen = torch.cat(patches)
    say(f"fitting the head {model.spec.model.head} to {len(seen)} patches of {len(patches)} clips")
    model.head.fit(seen, generator)
    lost = (model.head.visible(seen) - seen).square().sum() / seen.square().sum()
    say(f"the fitted head loses {100 * lost:.1f} % of their power")


def _from_impact(config: TrainConfig, spec: ImpactSpec, source: Impact) -> ImpactTraining:
    learned = source.spec
    if config.init_from == BUILTIN:
        spec = _as_builtin(spec, learned)
    if head_class(spec.model.head).teacher == learned.model.head:
        learned = replace(learned, model=replace(learned.model, head=spec.model.head))
    if spec.model.pooled_text:  # which may be added to a model: its new weights are 0
        learned = replace(learned, model=replace(learned.model, pooled_text=True))
    changed = differences(learned, spec, text=bool(source.spec.text_features))
    if changed:
        raise UserError(
            f"init_from={config.init_from} does not fit this training: {'; '.join(changed)}. Use the model=... and "
            f"model.KEY=... it was trained with{_overrides(learned, spec)} and shards of the same codec, or pre-train "
            "again"
        )
    module = STAGES[config.stage](inherit_statistics(source.spec, spec), config)
    new = module.start_from(source)
    say(f"weights from {config.init_from} (EMA)" + (f"; new: {', '.join(new)}" if new else ""))
    return module


def _as_builtin(spec: ImpactSpec, builtin: ImpactSpec) -> ImpactSpec:
    """Copy the shipped model's shape, and its decoding where the configuration has defaults; print both."""
    shape = {name: getattr(builtin.model, name) for name in SHAPE_FIELDS if name != "head"}
    changed = [f"{name}={value}" for name, value in shape.items() if getattr(spec.model, name) != value]
    if changed:
        say(f"the model has the shape of init_from=builtin: {' '.join(changed)}")
    default = asdict(DecodingConfig())
    kept = {name: value for name, value in spec.decoding.items() if value != default[name]}
    pooled = builtin.model.pooled_text or spec.model.pooled_text
    model = replace(spec.model, **shape, text_padding=builtin.model.text_padding, pooled_text=pooled)
    return replace(spec, model=model, decoding=builtin.decoding | kept)


def _overrides(learned: ImpactSpec, spec: ImpactSpec) -> str:
    """Format the overrides that give the model the shape of the one that it starts from."""
    pairs = {name: getattr(learned.model, name) for name in SHAPE_FIELDS}
    changed = [f"model.{name}={value}" for name, value in pairs.items() if getattr(spec.model, name) != value]
    return f" ({' '.join(changed)})" if changed else ""
