"""Initialise a training run: with random weights, from another model, or from its own last checkpoint."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from impact_pl.config import DecodingConfig, TrainConfig
from impact_pl.data.cache import ShardCache
from impact_pl.data.datamodule import LatentDataModule
from impact_pl.data.remote import join
from impact_pl.data.shards import LatentDataset
from impact_pl.errors import UserError
from impact_pl.models.heads import head_class
from impact_pl.models.impact import Impact
from impact_pl.models.mar import load_mar
from impact_pl.models.spec import ImpactSpec, find_model
from impact_pl.training.checkpoint import (
    SHAPE_FIELDS,
    differences,
    inherit_statistics,
    load_averaged,
    open_checkpoint,
    spec_from_plain,
)
from impact_pl.training.distillation import Distillation
from impact_pl.training.modules import ImpactTraining, TextConditionalTraining, UnconditionalPretraining

STAGES: dict[str, type[ImpactTraining]] = {
    module.stage: module for module in (UnconditionalPretraining, TextConditionalTraining, Distillation)
}
MAR = "mar:"
BUILTIN = "builtin"
LEARNED_DECODING = ("temperature", "min_alpha_bar", "guidance_scale")  # settings that stage distill learns


@rank_zero_only
def say(line: str) -> None:
    print(line, flush=True)


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


def check_resume(
    config: TrainConfig, spec: ImpactSpec, last: Path, data: LatentDataModule
) -> tuple[ImpactSpec, Progress]:
    """Return the spec to resume with (including the checkpoint's statistics), and the position.

    Raises:
        UserError: The checkpoint belongs to another training run, or to other data.
    """
    checkpoint = open_checkpoint(last).content
    stored = checkpoint["hyper_parameters"]
    old = spec_from_plain(stored["spec"])
    if config.init_from == BUILTIN:
        spec = _as_builtin(spec, old)
    changed = differences(old, spec, text=True)
    if stored["stage"] != config.stage:
        changed.insert(0, f"stage {stored['stage']} -> {config.stage}")
    if config.stage == "distill":  # see training/distillation.py
        pairs = {name: (old.decoding.get(name), spec.decoding.get(name)) for name in LEARNED_DECODING}
        changed += [f"decoding.{name} {was} -> {now}" for name, (was, now) in pairs.items() if was != now]
    if changed:
        raise UserError(
            f"{last.parent.parent} holds another training: {'; '.join(changed)}. Choose another name=..., set these "
            "back, or delete the directory"
        )
    data.check_state(checkpoint["LatentDataModule"])
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
    say(f"it can draw them but for {100 * lost:.1f} % of their power")


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
