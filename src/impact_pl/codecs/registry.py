"""Registry of audio codecs: the project's own, a program's, and those of installed packages."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from impact_pl import assets
from impact_pl.codecs.audioldm import AudioLDMCodec
from impact_pl.codecs.base import AudioCodec
from impact_pl.codecs.builtin import BuiltinCodec
from impact_pl.errors import UserError
from impact_pl.registry import build_part, known_kinds

ENTRY_POINTS = "impact_pl.codecs"  # entry point group through which installed packages offer codecs


def _builtin() -> AudioCodec:
    return BuiltinCodec.from_pretrained(Path(assets.__file__).parent / "codec")


CODECS: dict[str, Callable[..., AudioCodec]] = {"builtin": _builtin, "audioldm": AudioLDMCodec}


def load_codec(name_or_path: str, device: torch.device | str = "cpu", vocoder: str | None = None) -> AudioCodec:
    """Load a codec for inference.

    Args:
        name_or_path: ``builtin``; ``audioldm:FOLDER`` or ``audioldm:hub:ID``; a folder written by ``impact train
            experiment=codec`` (config.json and model.safetensors); or the name of your own codec, from ``CODECS`` or an
            entry point.
        device: Device of the codec.
        vocoder: Of ``audioldm``: ``hifigan`` (the default), ``fast``, ``griffin_lim``, or a folder written by ``impact
            train experiment=vocoder``.

    Raises:
        UserError: The name is unknown and not such a folder, a file or package of the codec is missing, or the codec
            takes no vocoder.
    """
    kind = name_or_path.partition(":")[0]
    if vocoder is not None:
        if kind != "audioldm":
            raise UserError(f"vocoder '{vocoder}': codec '{name_or_path}' has none to choose, only audioldm:FOLDER has")
        own: dict[str, Callable[..., AudioCodec]] = {"audioldm": partial(AudioLDMCodec, vocoder=vocoder)}
        return build_part("codec", own, ENTRY_POINTS, name_or_path).to(device).eval()
    if kind in CODECS or kind in (kinds := known_kinds(CODECS, ENTRY_POINTS)):  # entry points take a while to find
        return build_part("codec", CODECS, ENTRY_POINTS, name_or_path).to(device).eval()
    if not Path(name_or_path, "config.json").is_file():
        raise UserError(
            f"no codec '{name_or_path}': choose {', '.join(kinds)} (audioldm:FOLDER or audioldm:hub:ID), or the path "
            "of a folder with config.json and model.safetensors (impact train experiment=codec writes one)"
        )
    codec = BuiltinCodec.from_pretrained(name_or_path)
    codec.name = str(Path(name_or_path).resolve())
    return codec.to(device).eval()
