"""Check a training run's configuration before anything is read or written, and derive the model's specification."""

import logging
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from impact_pl.config import ModelConfig, TrainConfig
from impact_pl.data.index import ShardIndex
from impact_pl.errors import UserError, shown
from impact_pl.files import check_value
from impact_pl.models.heads import check_order, head_class
from impact_pl.models.spec import ImpactSpec
from impact_pl.sampling.decoding import check_decoding

logger = logging.getLogger(__name__)

AT_LEAST_0 = "0 or more"
AT_LEAST_1 = "1 or more"
POSITIVE = "a finite number above 0"
SHARE = "0 to 1"
BELOW_1 = "0 or more, below 1"
ZERO_STAGES = "1 or 2; to split the parameters as well, take trainer=fsdp2 instead of a zero_stage of 3"
RANGES = {
    AT_LEAST_0: lambda value: value >= 0,
    AT_LEAST_1: lambda value: value >= 1,
    POSITIVE: lambda value: 0 < value < math.inf,
    "above 0": lambda value: value > 0,
    "above 0, at most 1": lambda value: 0 < value <= 1,
    SHARE: lambda value: 0 <= value <= 1,
    BELOW_1: lambda value: 0 <= value < 1,
    ZERO_STAGES: lambda value: value in (1, 2),
}
ALLOWED = {
    "seed": AT_LEAST_0,
    "model": {
        **dict.fromkeys(("dim", "depth", "num_heads", "patch_size", "max_patches"), AT_LEAST_1),
        **dict.fromkeys(("head_width", "head_depth", "num_timesteps", "diffusion_batch_mul"), AT_LEAST_1),
        "local_kernel": AT_LEAST_0,
        **dict.fromkeys(("num_codebooks", "codebook_size"), AT_LEAST_1),
        "mlp_ratio": POSITIVE,
        **dict.fromkeys(("dropout", "attention_dropout"), BELOW_1),
        "mask_ratio": {
            "low": BELOW_1,
            "std": POSITIVE,
            "span_share": SHARE,
            **dict.fromkeys(("value", "span_low", "span_high"), "above 0, at most 1"),
        },
    },
    "data": {
        "batch_size": AT_LEAST_1,
        **dict.fromkeys(("num_workers", "cache_gb", "block_shards"), AT_LEAST_0),
        "caption_dropout": SHARE,
        "token_dropout": SHARE,
        "replay_share": BELOW_1,
    },
    "trainer": {
        **dict.fromkeys(("devices", "num_nodes", "accumulate_grad_batches", "log_every_steps"), AT_LEAST_1),
        **dict.fromkeys(("max_steps", "validate_every_steps"), AT_LEAST_0),
        **dict.fromkeys(("checkpoint_every_steps", "sample_every_steps"), AT_LEAST_0),
        **dict.fromkeys(("stall_minutes", "global_batch_size", "max_skipped_steps"), AT_LEAST_0),
        "zero_stage": ZERO_STAGES,
    },
    "optim": {
        "lr": POSITIVE,
        "betas": BELOW_1,
        **dict.fromkeys(("weight_decay", "warmup_steps", "decay_steps"), AT_LEAST_0),
        "gradient_clip": "above 0",
        "ema_decay": BELOW_1,
    },
    "lora": {"rank": AT_LEAST_0, "alpha": POSITIVE},
    "distill": {"num_positions": AT_LEAST_1},
    "codec": {
        **dict.fromkeys(("decoder_dim", "decoder_depth"), AT_LEAST_1),
        "crop_seconds": POSITIVE,
        **dict.fromkeys(("latent_channels", "latent_noise"), AT_LEAST_0),
    },
}


def is_inside(name: str) -> bool:
    """Check that ``name`` leads to a folder inside of another one, neither out of it nor to itself."""
    path = Path(name)
    return bool(name.strip() and path.parts) and not path.is_absolute() and ".." not in path.parts


def check_config(config: TrainConfig) -> None:
    """Validate every number, and the decoding settings of audio samples.

    Raises:
        UserError: A number is out of range; the message names key, value and range.
    """
    if not is_inside(config.name):
        raise UserError(
            f"name={shown(config.name)}: name a folder inside runs_dir={shown(config.runs_dir)}, such as name=mine/text"
        )
    _check(asdict(config), ALLOWED, "")
    check_value(asdict(config.model), ModelConfig, "model", "choose a smaller model")
    model = config.model
    if model.dim % model.num_heads:
        raise UserError(f"model.dim={model.dim}: choose a multiple of model.num_heads={model.num_heads}")
    if model.mask_ratio.span_low > model.mask_ratio.span_high:
        low, high = model.mask_ratio.span_low, model.mask_ratio.span_high
        raise UserError(f"model.mask_ratio.span_low={low}: choose at most model.mask_ratio.span_high={high}")
    if config.stage in ("pretrain", "text") and head_class(model.head).teacher:
        raise UserError(f"model.head={model.head} learns from a trained model: stage=distill (experiment=distill)")
    if config.lora.rank and (config.stage not in ("pretrain", "text") or not config.init_from):
        raise UserError(
            f"lora.rank={config.lora.rank}: adapters are trained next to the weights of a trained model: stage text or "
            "pretrain, with init_from=..."
        )
    check_schedule(config)
    if len(config.optim.betas) != 2:
        raise UserError(f"optim.betas={shown(str(list(config.optim.betas)))}: give two numbers")
    if config.stage != "codec":
        check_decoding(config.decoding, model.num_timesteps)
        check_order(model.head, config.decoding.order, config.decoding.reveal, config.decoding.solver)
    if config.stage == "distill":
        check_distillation(config)
    if config.trainer.max_skipped_steps and (config.trainer.strategy == "deepspeed" or config.stage == "codec"):
        raise UserError("trainer.max_skipped_steps: not supported by strategy=deepspeed and stage codec")


def check_distillation(config: TrainConfig) -> None:
    """Check that a teacher exists and supports the student's decoding.

    Raises:
        UserError: It does not.
    """
    if not config.init_from or config.init_from.startswith("mar:"):
        raise UserError("stage distill trains the head alone: name the trained model of stage text with init_from=...")
    if head_class(config.model.head).teacher is None:
        raise UserError(
            f"stage distill: model.head={shown(config.model.head)} learns from data; choose model.head=consistency"
        )
    path = replace(config.decoding, num_diffusion_steps=config.distill.num_diffusion_steps, final_diffusion_steps=0)
    try:
        check_decoding(path, config.model.num_timesteps)
    except UserError as error:
        raise UserError(f"distill.{error}") from error


def check_schedule(config: TrainConfig) -> None:
    """Check that the learning rate rises before it decays, and that the decay applies.

    Where a training that starts from a model is shorter than its experiment's schedule, warm-up and decay are shortened
    with it (in place).

    Raises:
        UserError: The schedule is inconsistent.
    """
    optim, max_steps = config.optim, config.trainer.max_steps
    if optim.decay_steps and config.stage == "codec":
        raise UserError(f"optim.decay_steps={optim.decay_steps}: stage codec has a cosine of its own; choose 0")
    total = optim.warmup_steps + optim.decay_steps
    if optim.decay_steps and 0 < max_steps < total and config.init_from:
        before = f"{optim.warmup_steps} and {optim.decay_steps}"
        optim.warmup_steps = optim.warmup_steps * max_steps // total
        optim.decay_steps = max_steps - optim.warmup_steps
        logger.warning(
            "optim.warmup_steps and decay_steps are shortened from %s to %d and %d: trainer.max_steps=%d",
            *(before, optim.warmup_steps, optim.decay_steps, max_steps),
        )
    elif optim.decay_steps and 0 < max_steps < total:
        warmup, decay = min(optim.warmup_steps, max_steps // 10), min(optim.decay_steps, max_steps // 2)
        raise UserError(
            f"optim.warmup_steps={optim.warmup_steps} and optim.decay_steps={optim.decay_steps} are more than "
            f"trainer.max_steps={max_steps}, but the learning rate should rise before it falls: write for example "
            f"optim.warmup_steps={warmup} optim.decay_steps={decay}, or optim.decay_steps=0"
        )


def settle_batch(config: TrainConfig) -> None:
    """Set ``accumulate_grad_batches`` (in place) so that a step takes ``trainer.global_batch_size`` clips.

    The same experiment then has the same batch size on any number of processes.

    Raises:
        UserError: The size is not a multiple of a micro-batch, or contradicts ``accumulate_grad_batches``.
    """
    trainer, wanted = config.trainer, config.trainer.global_batch_size
    if not wanted:
        return
    micro = config.data.batch_size * trainer.devices * trainer.num_nodes
    product = f"data.batch_size={config.data.batch_size} x {trainer.devices * trainer.num_nodes} processes"
    if wanted % micro:
        raise UserError(f"trainer.global_batch_size={wanted}: choose a multiple of {product} = {micro}, or 0")
    if trainer.accumulate_grad_batches not in (1, wanted // micro):
        raise UserError(
            f"trainer.global_batch_size={wanted} is {wanted // micro} times {product}, but "
            f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}: set only one of the two"
        )
    trainer.accumulate_grad_batches = wanted // micro


def batch_change(config: TrainConfig, before: int | None) -> str:
    """Describe how a step's clips differ from ``before``, as on another number of nodes; empty if they do not."""
    trainer = config.trainer
    processes, accumulated = trainer.devices * trainer.num_nodes, trainer.accumulate_grad_batches
    now = config.data.batch_size * processes * accumulated
    if before in (None, now):
        return ""
    return (
        f"warning: a step takes {now} clips from here on (data.batch_size={config.data.batch_size} x {processes} "
        f"processes x trainer.accumulate_grad_batches={accumulated}), before it took {before}: set "
        f"trainer.global_batch_size={before} to keep it"
    )


def _check(values: dict, allowed: dict, prefix: str) -> None:
    for name, what in allowed.items():
        value = values[name]
        if isinstance(what, dict):
            _check(value, what, f"{prefix}{name}.")
        elif not all(RANGES[what](number) for number in (value if isinstance(value, list | tuple) else [value])):
            raise UserError(f"{prefix}{name}={shown(str(value))}: choose {what}")


def build_spec(config: TrainConfig, index: ShardIndex, has_text: bool) -> ImpactSpec:
    """Derive the model's specification from this configuration and these shards."""
    channels, frames, width = index.latents["shape"]
    text: dict[str, Any] | None = None
    if has_text:
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
        latent_mean=index.latents["mean"],
        latent_std=index.latents["std"],
        text_features={} if text is None else _text_features(config, text["features"]),
        codec=dict(index.codec),
        text_encoder=None if text is None else {"name": text["name"], "identity": text["identity"]},
        num_frames=frames,
        decoding=decoding,
    )


def _text_features(config: TrainConfig, features: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Select the shards' features that ``data.text_features`` names, or all, in the shards' order."""
    chosen = config.data.text_features
    unknown = [name for name in chosen if name not in features]
    if unknown:
        raise UserError(
            f"data.text_features={chosen}: the shards in {config.data.path} have {', '.join(features)}, not "
            f"{', '.join(unknown)}; choose among these, or precompute with a text_encoder that makes it"
        )
    return {name: (shape[0], shape[1]) for name, shape in features.items() if not chosen or name in chosen}
