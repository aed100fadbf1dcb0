"""Training checkpoints: writing, reading, and compatibility with the next training."""

import dataclasses
import json
import os
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

from annotated_types import Ge, Lt
from lightning import Trainer
from pydantic import ConfigDict, with_config
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from impact_pl.checkpoint_io import raise_if_memory, state_dict
from impact_pl.config import LoraConfig
from impact_pl.errors import UserError, first_line
from impact_pl.files import check_value, parse_json
from impact_pl.models.adapters import merged_weights
from impact_pl.models.heads import check_order
from impact_pl.models.impact import Impact
from impact_pl.models.spec import ImpactSpec, check_size, check_spec
from impact_pl.sampling.decoding import check_decoding
from impact_pl.training.checkpoint_files import META, StoredCheckpoint, discard, find, put_in_place
from impact_pl.training.lora import scale_of, with_base_names

EMA_PREFIX = "ema.model."
# Fields that determine names and shapes of weights. The rest of ModelConfig may change from stage to stage, except
# text_padding and pooled_text once there is text.
SHAPE_FIELDS = (
    *("dim", "depth", "num_heads", "mlp_ratio", "patch_size", "max_patches", "local_kernel"),
    *("head", "head_width", "head_depth", "prediction", "num_timesteps", "num_codebooks", "codebook_size"),
)

REMEDY = "delete it"


class ConfigNotes(TypedDict):
    """The training's configuration; what it says beyond this is not read."""

    lora: NotRequired[dict[str, Any]]  # see read_lora


class ModuleNotes(TypedDict):
    """The module's hyperparameters."""

    stage: str
    config: NotRequired[ConfigNotes]
    spec: NotRequired[dict[str, Any]]  # see read_checkpoint_spec; absent for the codec


class CheckpointsNotes(TypedDict):
    """State of the callback that saves."""

    validation_owed: bool


class CallbackNotes(TypedDict):
    """States of callbacks; others are allowed."""

    Checkpoints: CheckpointsNotes


class OrderNotes(TypedDict):
    """State of the data module; other keys are compared with the data."""

    samples_consumed: Annotated[int, Ge(0), Lt(1 << 62)]
    step: Annotated[int, Ge(0), Lt(1 << 62)]
    global_batch_size: NotRequired[Annotated[int, Ge(1), Lt(1 << 62)]]  # absent in checkpoints of earlier versions


@with_config(ConfigDict(strict=True, extra="allow"))
class Notes(TypedDict):
    """What this package reads in a checkpoint. Lightning and torch check what they read."""

    hyper_parameters: ModuleNotes
    state_dict: dict[str, Any]
    global_step: Annotated[int, Ge(0), Lt(1 << 62)]
    callbacks: CallbackNotes
    logger_versions: dict[str, str]
    LatentDataModule: NotRequired[OrderNotes]
    skipped_steps: NotRequired[Annotated[int, Ge(0)]]
    loops: dict[str, Any]
    optimizer_states: list[dict[str, Any]]
    lr_schedulers: list[dict[str, Any]]


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint, a file or a folder depending on the strategy. Must be called by all ranks.

    At any moment :func:`find_checkpoint` finds none, the old one, or the new one.
    """
    partial = path.with_name(path.name + ".partial")
    if trainer.is_global_zero:
        discard(partial)  # from a run killed while writing, perhaps under another strategy
    trainer.strategy.barrier("nothing partial")
    trainer.save_checkpoint(partial)  # ends with a barrier
    if trainer.is_global_zero:
        put_in_place(partial, path)
    trainer.strategy.barrier("checkpoint")


def read_checkpoint(path: Path, kind: str = "spec") -> dict[str, Any]:
    """Read a complete checkpoint of this project, memory-mapped if possible.

    Args:
        path: The file or folder.
        kind: Required key of its ``hyper_parameters``: a model's ``spec``, or just a ``stage`` (the codec's).

    Raises:
        UserError: It is missing, damaged, or not a checkpoint of ``impact train``.
    """
    return open_checkpoint(path, kind).read()


def open_checkpoint(path: Path, kind: str = "spec") -> StoredCheckpoint:
    """Open a checkpoint as :func:`read_checkpoint` does, but read large tensors lazily."""
    stored = StoredCheckpoint(path)
    content = stored.content
    hyperparameters = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(hyperparameters, dict) or kind not in hyperparameters:
        what = "model specification" if kind == "spec" else kind
        raise UserError(f"{path} is not a checkpoint of impact train: it has no {what}")
    check_value(content, Notes, str(path), REMEDY)
    return stored


def read_checkpoint_spec(stored: StoredCheckpoint) -> ImpactSpec:
    """Read and validate a checkpoint's model specification.

    Raises:
        UserError: It does not describe a model, or one that is larger than the checkpoint.
    """
    where = f"{stored.path}: hyper_parameters.spec"
    try:
        text = json.dumps(stored.content["hyper_parameters"]["spec"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: not a specification ({first_line(error)}); {REMEDY}") from error
    spec = parse_json(text, ImpactSpec, where, REMEDY)
    check_spec(spec, where, REMEDY)
    check_size(spec, where, stored.path.name, stored.num_bytes, REMEDY)
    return spec


def read_lora(stored: StoredCheckpoint) -> LoraConfig:
    """Read the settings of a checkpoint's adapters; rank 0 if it has none, or an earlier version wrote it."""
    plain = stored.content["hyper_parameters"].get("config", {}).get("lora", {})
    return check_value(plain, LoraConfig, f"{stored.path}: hyper_parameters.config.lora", REMEDY)


def averaged_weights(stored: StoredCheckpoint) -> dict[str, Tensor]:
    """Read the EMA's state dict, under Impact's own names, and nothing else."""
    return {
        name[len(EMA_PREFIX) :]: stored.whole(f"state_dict/{name}", value)
        for name, value in state_dict(stored.content["state_dict"], stored.path).items()
        if name.startswith(EMA_PREFIX)
    }


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint at ``path``, or the last one if ``path`` is a run directory.

    If there is none, return the path where it would be.
    """
    if path.is_dir() and not (path / META).is_file():
        path = path / "checkpoints" / "last.ckpt"
    return find(path) or path


def load_averaged(path: Path) -> Impact:
    """Load the EMA model from a model folder, a checkpoint, or a run directory.

    Raises:
        UserError: ``path`` is none of these.
    """
    if (path / "config.json").is_file():
        return Impact.from_pretrained(path)
    stored = open_checkpoint(find_checkpoint(path))
    model = Impact(read_checkpoint_spec(stored))
    weights, lora = averaged_weights(stored), read_lora(stored)
    if lora.rank:
        weights = merged_weights(weights, scale_of(lora))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise_if_memory(error)
        raise UserError(
            f"{stored.path}: its weights do not fit its specification ({shorten(str(error), 300)})"
        ) from error
    return model.eval()


def export(path: Path, out: Path, half: bool = False, decoding: dict[str, Any] | None = None) -> None:
    """Write the self-contained model folder of a checkpoint or run directory, atomically.

    Args:
        path: The checkpoint or run directory.
        out: The folder to write.
        half: Store weights in half precision.
        decoding: Fields of DecodingConfig that override those of the training run.

    Raises:
        UserError: There is nothing to export, or the decoding settings are invalid.
    """
    model = load_averaged(path)
    model.spec.decoding = model.spec.decoding | (decoding or {})
    own, head = model.spec.own_decoding, model.spec.model.head
    check_decoding(own, model.spec.model.num_timesteps)
    check_order(head, own.order, own.reveal, own.solver)
    save_model(model, out, half)


def save_model(model: Impact, out: Path, half: bool = False) -> None:
    """Run ``save_pretrained`` to a temporary folder next to ``out``, then rename file by file."""
    partial = out.with_name(out.name + ".partial")
    model.save_pretrained(partial, half)
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(partial.iterdir(), reverse=True):  # config.json last: a folder without it is not a model
        os.replace(file, out / file.name)
    partial.rmdir()


def differences(old: ImpactSpec, new: ImpactSpec, text: bool) -> list[str]:
    """List the differences that prevent ``new`` from using the weights or data of ``old``.

    ``text``: compare text too.
    """
    pairs = [(f"model.{name}", getattr(old.model, name), getattr(new.model, name)) for name in SHAPE_FIELDS]
    pairs += [
        ("latent channels", old.latent_channels, new.latent_channels),
        ("latent width", old.latent_width, new.latent_width),
    ]
    parts: list[tuple[str, dict | None, dict | None]] = [("codec", old.codec, new.codec)]
    if text:
        parts.append(("text encoder", old.text_encoder, new.text_encoder))
        pairs.append(("text features", _plain(old.text_features), _plain(new.text_features)))
        if new.text_features:
            pairs.append(("model.text_padding", old.num_padding, new.num_padding))
            pairs.append(("model.pooled_text", old.model.pooled_text, new.model.pooled_text))
    # Compare parts by identity, because their names contain the folder they were in.
    pairs += [
        (name, _identity(before), _identity(now))
        for name, before, now in parts
        if (before or {}).get("identity") != (now or {}).get("identity")
    ]
    return [f"{name} {before} -> {now}" for name, before, now in pairs if before != now]


def _identity(part: dict | None) -> str:
    return "none" if not part else f"{part['name']}/{part['identity']}"


def _plain(features: dict[str, tuple[int, int]]) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in features.items()}


def inherit_statistics(old: ImpactSpec, new: ImpactSpec) -> ImpactSpec:
    """Return ``new`` with the whitening statistics of ``old``.

    Note:
        The stages train on different data (AudioSet, then AudioCaps and WavCaps), so their latent means and deviations
        differ slightly. The model keeps the statistics that its weights were trained with.
    """
    return dataclasses.replace(new, latent_mean=old.latent_mean, latent_std=old.latent_std)


def start_from(model: Impact, source: Impact) -> list[str]:
    """Copy every weight of ``source`` into ``model`` and return the names that keep their initial values.

    These are text parts and, if the source's head is the teacher of the model's, that head's own weights.

    Raises:
        UserError: The source has weights that the model lacks, or lacks other weights.
    """
    new: tuple[str, ...] = ("text_proj", "text_pool", "null_cond", "text_pos")
    weights = with_base_names(source.state_dict(), model)
    if source.spec.model.head != model.spec.model.head:
        own = tuple(f"head.{name}." for name in model.head.own_weights)
        weights = {name: weight for name, weight in weights.items() if not name.startswith(own)}
        new += own
    result = model.load_state_dict(weights, strict=False)
    missing = [name for name in result.missing_keys if ".lora_" not in name]
    strange = [name for name in missing if not any(part in name for part in new)]
    if result.unexpected_keys or strange:
        raise UserError(f"init_from has other weights: too many {result.unexpected_keys}, missing {strange}")
    return missing


def rewind_loops(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Set Lightning's loop state in a checkpoint (in place) to right after optimizer step ``global_step``.

    What Lightning saves depends on the hook in which it saves, and counts batches of the old accumulation. Everything
    relevant follows from the number of steps, because the complete training is one Lightning epoch.
    """
    steps = checkpoint["global_step"]
    batches = steps * trainer.accumulate_grad_batches
    state = trainer.fit_loop.state_dict()  # of a new loop
    everything = dict.fromkeys(("ready", "started", "processed", "completed"), batches)
    done = dict.fromkeys(("ready", "completed"), steps)
    state["epoch_progress"]["total"].update(ready=1, started=1)
    state["epoch_progress"]["current"].update(ready=1, started=1)
    state["epoch_loop.state_dict"]["_batches_that_stepped"] = steps
    for span in ("total", "current"):
        state["epoch_loop.batch_progress"][span].update(everything)
        state["epoch_loop.scheduler_progress"][span].update(done)
        state["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"][span].update(done)
        state["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["zero_grad"][span].update(
            dict.fromkeys(("ready", "started", "completed"), batches)
        )
    checkpoint["loops"]["fit_loop"] = state
