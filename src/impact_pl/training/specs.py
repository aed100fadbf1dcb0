"""Build a model's specification from a configuration and its shards."""

from dataclasses import asdict
from typing import Any

from impact_pl.config import TrainConfig
from impact_pl.data.index import ShardIndex
from impact_pl.data.remote import join
from impact_pl.errors import UserError
from impact_pl.models.spec import ImpactSpec


def build_spec(config: TrainConfig, index: ShardIndex, has_text: bool) -> ImpactSpec:
    """Build the specification of the model that this configuration and these shards define."""
    try:
        channels, frames, width = index.latents["shape"]
        mean, std = list(index.latents["mean"]), float(index.latents["std"])
    except (KeyError, TypeError, ValueError) as error:
        raise _bad_index(config, f"no usable latents.shape, mean and std ({error})") from error
    if len(mean) != channels or not std > 0:
        raise _bad_index(config, f"{len(mean)} means for {channels} channels, std {std}")
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
    for name in ("engine", "precision"):  # properties of the computation, not of the samples
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
    """Select the shards' features that ``data.text_features`` names, or all, in the shards' order."""
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
