"""Text encoders: captions -> features that the model takes as its condition.

Dimension key: B batch, L_i positions of feature i, d_i its numbers a position, L all positions together.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from impact_pl.errors import UserError


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
                raise UserError(f"text encoder '{self.name}': two of its encoders give a feature {', '.join(twice)!r}")
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
