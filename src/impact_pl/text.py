"""Text encoders: captions -> features that the model takes as its condition.

Dimension key: B batch, L_i positions of feature i, d_i its numbers a position, L all positions together.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from impact_pl.parts import build_part, known_kinds

ENTRY_POINTS = "impact_pl.text_encoders"  # group of the entry points by which installed packages offer text encoders


@dataclass
class TextFeatures:
    """Encoded captions. ``mask`` runs over all features' positions, in the order of ``features``."""

    features: dict[str, Tensor]  # name -> (B, L_i, d_i)
    mask: Tensor  # (B, L) bool, True = real

    def to(self, device: torch.device | str) -> "TextFeatures":
        """The same on another device."""
        return TextFeatures({name: x.to(device) for name, x in self.features.items()}, self.mask.to(device))


class TextEncoder(nn.Module, ABC):
    """What Impact needs of a text encoder, which is frozen.

    Attributes:
        name: what ``load_text_encoder`` finds it by.
        identity: a short string that changes whenever features would, such as a hash of the weights.
        features: name -> (L_i, d_i) of every feature.
    """

    name: str
    identity: str
    features: dict[str, tuple[int, int]]

    @abstractmethod
    def encode(self, captions: list[str]) -> TextFeatures:
        """Features of B captions, without gradients, each padded or cut to its L_i positions; real ones come first.

        An encoder without weights may leave them on the CPU: whoever needs them elsewhere moves them.
        """

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU where it has none."""
        return next(self.parameters(), torch.empty(0)).device

    def train(self, mode: bool = True) -> "TextEncoder":
        """Dropout stays off."""
        return super().train(False)

    def describe(self) -> dict[str, Any]:
        """What shards note of it: name, identity, and the shapes of its features."""
        features = {name: list(shape) for name, shape in self.features.items()}
        return {"name": self.name, "identity": self.identity, "features": features}

    def encode_known(self, captions: list[str]) -> TextFeatures:
        """As ``encode``, with zeros and a mask of False for clips without caption (""), as shards hold them."""
        known = [i for i, caption in enumerate(captions) if caption]
        features = {
            name: torch.zeros(len(captions), length, size, device=self.device)
            for name, (length, size) in self.features.items()
        }
        length = sum(length for length, _ in self.features.values())
        mask = torch.zeros(len(captions), length, dtype=torch.bool, device=self.device)
        if known:
            encoded = self.encode([captions[i] for i in known]).to(self.device)
            for name, feature in features.items():
                feature[known] = encoded.features[name].to(feature.dtype)
            mask[known] = encoded.mask
        return TextFeatures(features, mask)


class JoinedEncoder(TextEncoder):
    """Several encoders' features one after the other; ``clap:...+t5:...`` gives S1's 1 + 77 positions.

    Raises:
        ValueError: two of them have a feature of the same name.
    """

    def __init__(self, encoders: list[TextEncoder]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.name = "+".join(encoder.name for encoder in encoders)
        self.identity = hashlib.sha256(" ".join(encoder.identity for encoder in encoders).encode()).hexdigest()[:16]
        self.features = {}
        for encoder in encoders:
            if twice := self.features.keys() & encoder.features.keys():
                raise ValueError(f"text encoder '{self.name}': two of its encoders give a feature {', '.join(twice)!r}")
            self.features |= encoder.features

    def encode(self, captions: list[str]) -> TextFeatures:
        """Features of all encoders, (B, L_i, d_i) each; the mask (B, L) in their order."""
        features: dict[str, Tensor] = {}
        masks = []
        for encoder in self.encoders:
            assert isinstance(encoder, TextEncoder)
            encoded = encoder.encode(captions).to(self.device)
            features |= encoded.features
            masks.append(encoded.mask)
        return TextFeatures(features, torch.cat(masks, dim=1))


def _minilm() -> TextEncoder:
    from impact_pl.text_tokens import MiniLM  # here and below: these modules need this one

    return MiniLM()


def _t5(source: str) -> TextEncoder:
    from impact_pl.text_tokens import T5

    return T5(source)


def _clap(source: str) -> TextEncoder:
    from impact_pl.text_clap import Clap

    return Clap(source)


def _laion_clap(checkpoint: str) -> TextEncoder:
    from impact_pl.text_clap import LaionClap

    return LaionClap(checkpoint)


TEXT_ENCODERS: dict[str, Callable[..., TextEncoder]] = {
    "minilm": _minilm,
    "t5": _t5,
    "clap": _clap,
    "laion_clap": _laion_clap,
}


def load_text_encoder(name: str, device: torch.device | str = "cpu") -> TextEncoder:
    """Load a text encoder by name; the network is used for nothing but ``hub:`` names.

    Args:
        name: ``minilm``; ``t5:FOLDER``; ``clap:FOLDER``; ``laion_clap:FILE``; the name of one of your own, in
            ``TEXT_ENCODERS`` or an entry point; or several of them, joined with ``+``. Where a folder is wanted,
            ``hub:ID`` is a repository on the Hugging Face hub.
        device: where it runs.

    Raises:
        ValueError: unknown name, or a file or package of the encoder is missing.
    """
    kinds = known_kinds(TEXT_ENCODERS, ENTRY_POINTS)
    known = "|".join(map(re.escape, kinds))
    names = re.split(rf"\+(?=(?:{known})(?:[:+]|$))", name)  # a path may hold a + as well
    for each in names:
        unknown = re.search(r"\+(\w+):", each)
        if unknown and not Path(each.partition(":")[2]).exists():
            raise ValueError(f"no text encoder '{unknown[1]}': choose one of {', '.join(kinds)}")
    encoders = [build_part("text encoder", TEXT_ENCODERS, ENTRY_POINTS, each) for each in names]
    encoder = encoders[0] if len(encoders) == 1 else JoinedEncoder(encoders)
    return encoder.to(device).eval()
