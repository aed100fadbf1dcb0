"""What a training starts from: random weights, another model's, or its own last checkpoint."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from impact_pl.config import TrainConfig
from impact_pl.data.cache import ShardCache
from impact_pl.data.datamodule import LatentDataModule
from impact_pl.data.remote import join
from impact_pl.data.shards import LatentDataset, ShardIndex
from impact_pl.errors import UserError
from impact_pl.models.heads import head_class
from impact_pl.models.impact import Impact
from impact_pl.models.mar import load_mar
from impact_pl.models.spec import ImpactSpec, find_model
from impact_pl.training.checkpoint import (
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
LEARNED_DECODING = ("temperature", "min_alpha_bar", "guidance_scale")  # by stage distill


@rank_zero_only
def say(line: str) -> None:
    print(line, flush=True)


def build_spec(config: TrainConfig, index: ShardIndex) -> ImpactSpec:
    """The model that this configuration means for these shards."""
    try:
        channels, frames, width = index.latents["shape"]
        mean, std = list(index.latents["mean"]), float(index.latents["std"])
    except (KeyError, TypeError, ValueError) as error:
        raise _bad_index(config, f"no usable latents.shape, mean and std ({error})") from error
    if len(mean) != channels or not std > 0:
        raise _bad_index(config, f"{len(mean)} means for {channels} channels, std {std}")
    text: dict[str, Any] | None = None
    if STAGES[config.stage].has_text:
        if index.text_encoder is None:
            raise UserError(
                f"stage {config.stage} needs captions, but the shards in {config.data.path} have no features: "
                "precompute them from a manifest with captions, name a data.text_encoder=... to encode captions "
                "while training, or train experiment=pretrain on them"
            )
        text = dict(index.text_encoder)
    decoding = asdict(config.decoding)
    for name in ("engine", "precision"):  # how samples are computed, not what is sampled
        del decoding[name]
    return ImpactSpec(
        model=config.model,
        latent_channels=channels,
        latent_width=width,
        latent_mean=mean,
        latent_std=std,
        text_features={} if text is None else _text_features(config, text["features"]),
        codec=dict(index.codec),
        text_encoder=None if text is None else {"name": text["name"], "identity": text["identity"]},
        num_frames=frames,
        decoding=decoding,
    )


def _text_features(config: TrainConfig, features: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Those of the shards' features that ``data.text_features`` names, or all; in the shards' order."""
    chosen = config.data.text_features
    unknown = [name for name in chosen if name not in features]
    if unknown:
        raise UserError(
            f"data.text_features={chosen}: the shards in {config.data.path} have {', '.join(features)}, not "
            f"{', '.join(unknown)}; choose among these, or precompute with a text_encoder that makes it"
        )
    return {name: (shape[0], shape[1]) for name, shape in features.items() if not chosen or name in chosen}


def _bad_index(config: TrainConfig, what: str) -> UserError:
    return UserError(f"{join(config.data.path, 'train/index.json')}: {what}; precompute again")


@dataclass
class Progress:
    """Where a training continues."""

    step: int = 0
    kept_steps: int = 0  # steps whose logged metrics stay; one less where a step's validation is made again
    logger_versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, checkpoint: dict[str, Any]) -> "Progress":
        step = checkpoint["global_step"]
        is_owed = checkpoint["callbacks"]["Checkpoints"]["validation_owed"]
        return cls(step, step - is_owed, checkpoint["logger_versions"])


def check_resume(
    config: TrainConfig, spec: ImpactSpec, last: Path, data: LatentDataModule
) -> tuple[ImpactSpec, Progress]:
    """Return the spec to resume with (it has the checkpoint's statistics), and from where.

    Raises:
        UserError: the checkpoint is of another training, or of other data.
    """
    checkpoint = open_checkpoint(last).content
    stored = checkpoint["hyper_parameters"]
    old = spec_from_plain(stored["spec"])
    changed = differences(old, spec, text=True)
    if stored["stage"] != config.stage:
        changed.insert(0, f"stage {stored['stage']} -> {config.stage}")
    if config.stage == "distill":  # what the head learns: training/distillation.py
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
    """A module with fresh weights, or with those of ``init_from``.

    Args:
        config: of the training.
        spec: of its model.
        cache: where copies of its shards are kept, for a head that wants to see patches first.

    Raises:
        ValueError: nothing at ``init_from``, or another model; too few patches for the head.
    """
    source = config.init_from
    if source and not source.startswith(MAR):
        folder = find_model(source)  # builtin has one, too
        if not folder.exists():
            raise UserError(
                f"init_from={source}: there is nothing there. Train it first (impact-train "
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
    """Show the head patches of the training set, from clips that the seed chooses.

    Every process does so for itself, with the same outcome, before any of them trains.
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
    if head_class(spec.model.head).teacher == learned.model.head:
        learned = replace(learned, model=replace(learned.model, head=spec.model.head))
    changed = differences(learned, spec, text=bool(source.spec.text_features))
    if changed:
        raise UserError(
            f"init_from={config.init_from} does not fit this training: {'; '.join(changed)}. Use the model=... and "
            "model.KEY=... it was trained with and shards of the same codec, or pre-train anew"
        )
    module = STAGES[config.stage](inherit_statistics(source.spec, spec), config)
    new = module.start_from(source)
    say(f"weights from {config.init_from} (EMA)" + (f"; new: {', '.join(new)}" if new else ""))
    return module
