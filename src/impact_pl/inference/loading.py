"""Load the parts of a pipeline: a model folder with its codec and its text encoder."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from impact_pl.codecs.base import AudioCodec
from impact_pl.codecs.registry import load_codec
from impact_pl.errors import UserError
from impact_pl.hub import without_downloads
from impact_pl.models.impact import Impact
from impact_pl.models.spec import REMEDY, ImpactSpec
from impact_pl.precision import find_device
from impact_pl.registry import is_gone
from impact_pl.text_encoders.base import TextEncoder
from impact_pl.text_encoders.registry import load_text_encoder


def load_parts(
    path: str | Path,
    device: str | torch.device,
    codec: str | None,
    text_encoder: str | None,
    allow_hub: bool,
    vocoder: str | None = None,
) -> tuple[Impact, AudioCodec, TextEncoder | None]:
    """Load what :meth:`ImpactPipeline.from_pretrained` describes."""
    device = find_device(str(device))
    model = Impact.from_pretrained(path, device)
    if not model.spec.codec:
        raise UserError(f"{path}: its config.json names no codec, which generation needs: export the model again")
    noted = model.spec.codec["name"]
    if codec is None and is_gone(noted):
        wanted = "FOLDER" if Path(noted).is_absolute() else f"{noted.partition(':')[0]}:FOLDER"
        raise UserError(
            f"the codec that {path} was trained with was in {noted}, and that folder is gone: locate it "
            f"with --codec {wanted} (in Python: codec={wanted!r})"
        )
    text = None
    if model.spec.text_encoder is not None:
        with _downloads(allow_hub or text_encoder is not None):
            text = _load_text_encoder(path, text_encoder or model.spec.text_encoder["name"], device)
    with _downloads(allow_hub or codec is not None):
        loaded = load_codec(codec or noted, device, vocoder)
    require_codec(model.spec, loaded, str(Path(path) / "config.json"))
    if text is not None:
        require_text_encoder(model.spec, text, str(Path(path) / "config.json"))
    return model, loaded, text


def _load_text_encoder(path: str | Path, name: str, device: str) -> TextEncoder:
    try:
        return load_text_encoder(name, device)
    except UserError as error:
        raise UserError(
            f"{error} (the text encoder that {path} was trained with; if it has moved, give its location with "
            "--text-encoder NAME, in Python: text_encoder=NAME)"
        ) from error


def require_same(what: str, expected: dict, part: AudioCodec | TextEncoder) -> None:
    """Check that a codec or text encoder is the one that a model was trained with.

    Raises:
        UserError: It is not.
    """
    if expected["identity"] != part.identity:
        raise UserError(
            f"the model was trained with {what} {expected['name']!r} ({expected['identity']}), "
            f"this one is {part.name!r} ({part.identity}): use the {what} it was trained with, or train again"
        )


def require_codec(spec: ImpactSpec, codec: AudioCodec, where: str) -> None:
    """Check that a model's latents are those of ``codec``. Messages of a UserError name ``where`` the model is noted.

    Raises:
        UserError: It is another codec, or a size in the specification is not the codec's.
    """
    require_same("codec", spec.codec, codec)
    sizes = {
        "codec.sample_rate": (spec.codec.get("sample_rate"), codec.sample_rate),
        "codec.samples_per_latent": (spec.codec.get("samples_per_latent"), codec.samples_per_latent),
        "latent_channels": (spec.latent_channels, codec.latent_channels),
        "latent_width": (spec.latent_width, codec.latent_width),
    }
    for key, (noted, actual) in sizes.items():
        if noted is not None and noted != actual:  # earlier versions noted neither rate nor samples
            raise UserError(f"{where}: key {key!r}: {noted}, but codec {codec.name!r} has {actual}; {REMEDY}")


def require_text_encoder(spec: ImpactSpec, encoder: TextEncoder, where: str) -> None:
    """Check that a model's text features are those of ``encoder``, as :func:`require_codec` checks latents."""
    assert spec.text_encoder is not None
    require_same("text encoder", spec.text_encoder, encoder)
    for name, noted in spec.text_features.items():
        actual = encoder.features.get(name)
        if actual is None or tuple(actual) != tuple(noted):
            has = "no such feature" if actual is None else list(actual)
            raise UserError(
                f"{where}: key 'text_features.{name}': {list(noted)}, but text encoder {encoder.name!r} has {has}; "
                f"{REMEDY}"
            )


def _downloads(allowed: bool) -> AbstractContextManager[None]:
    return nullcontext() if allowed else without_downloads()
