"""Registry of text encoders: the project's own, a program's, and those of installed packages."""

import re
from collections.abc import Callable
from pathlib import Path

import torch

from impact_pl.errors import UserError
from impact_pl.registry import build_part, known_kinds
from impact_pl.text_encoders.base import JoinedEncoder, TextEncoder
from impact_pl.text_encoders.clap import Clap, LaionClap
from impact_pl.text_encoders.minilm import MiniLM
from impact_pl.text_encoders.tokens import T5

ENTRY_POINTS = "impact_pl.text_encoders"  # entry point group for text encoders of installed packages


TEXT_ENCODERS: dict[str, Callable[..., TextEncoder]] = {
    "minilm": MiniLM,
    "t5": T5,
    "clap": Clap,
    "laion_clap": LaionClap,
}


def load_text_encoder(name: str, device: torch.device | str = "cpu") -> TextEncoder:
    """Load a text encoder by name. Only ``hub:`` names access the network.

    Args:
        name: ``minilm``; ``t5:FOLDER``; ``clap:FOLDER``; ``laion_clap:FILE``; the name of your own, from
            ``TEXT_ENCODERS`` or an entry point; or several of them joined with ``+``. ``hub:ID`` in place of a folder
            is a repository on the Hugging Face hub.
        device: Device of the encoder.

    Raises:
        UserError: The name is unknown, or a file or package of the encoder is missing.
    """
    names = [name] if name in TEXT_ENCODERS else _split(name)  # looking for entry points takes a while
    encoders = [build_part("text encoder", TEXT_ENCODERS, ENTRY_POINTS, each) for each in names]
    encoder = encoders[0] if len(encoders) == 1 else JoinedEncoder(encoders)
    return encoder.to(device).eval()


def _split(name: str) -> list[str]:
    """Split names that are joined with ``+``; a path may contain a ``+`` as well."""
    kinds = known_kinds(TEXT_ENCODERS, ENTRY_POINTS)
    known = "|".join(map(re.escape, kinds))
    names = re.split(rf"\+(?=(?:{known})(?:[:+]|$))", name)
    for each in names:
        unknown = re.search(r"\+(\w+):", each)
        if unknown and not Path(each.partition(":")[2]).exists():
            raise UserError(f"no text encoder '{unknown[1]}': choose one of {', '.join(kinds)}")
    return names
