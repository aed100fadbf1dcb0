"""Audio codecs by name: those of the project, of a program, or of an installed package."""

from collections.abc import Callable
from pathlib import Path

import torch

from impact_pl import assets
from impact_pl.codecs.audioldm import AudioLDMCodec
from impact_pl.codecs.base import AudioCodec
from impact_pl.codecs.builtin import BuiltinCodec
from impact_pl.errors import UserError
from impact_pl.registry import build_part, known_kinds

ENTRY_POINTS = "impact_pl.codecs"  # group of the entry points by which installed packages offer codecs


def _builtin() -> AudioCodec:
    return BuiltinCodec.from_pretrained(Path(assets.__file__).parent / "codec")


CODECS: dict[str, Callable[..., AudioCodec]] = {"builtin": _builtin, "audioldm": AudioLDMCodec}


def load_codec(name_or_path: str, device: torch.device | str = "cpu") -> AudioCodec:
    """Load a codec for inference.

    Args:
        name_or_path: ``builtin``; ``audioldm:FOLDER`` or ``audioldm:hub:ID``; a folder that ``impact train
            experiment=codec`` wrote (config.json and model.safetensors); or the name of one of your own, in ``CODECS``
            or an entry point.
        device: where it runs.

    Raises:
        ValueError: neither a known name nor such a folder, or a file or package of the codec is missing.
    """
    kinds = known_kinds(CODECS, ENTRY_POINTS)
    if name_or_path.partition(":")[0] in kinds:
        return build_part("codec", CODECS, ENTRY_POINTS, name_or_path).to(device).eval()
    if not Path(name_or_path, "config.json").is_file():
        raise UserError(
            f"no codec '{name_or_path}': choose {', '.join(kinds)} (audioldm:FOLDER or audioldm:hub:ID), or the path "
            "of a folder with config.json and model.safetensors (impact train experiment=codec writes one)"
        )
    codec = BuiltinCodec.from_pretrained(name_or_path)
    codec.name = str(Path(name_or_path).resolve())
    return codec.to(device).eval()
