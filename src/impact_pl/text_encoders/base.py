"""The text encoder interface: text encoders map captions to the features that condition the model.

Dimension key: B batch, L_i positions of feature i, d_i its numbers per position, L all positions together.
"""

import hashlib
import logging
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from impact_pl.errors import UserError

logger = logging.getLogger(__name__)
_warned: set[str] = set()  # encoders that have warned of a truncated caption


@dataclass
class TextFeatures:
    """Encoded captions. ``mask`` covers the positions of all features, in the order of ``features``."""

    features: dict[str, Tensor]  # name -> (B, L_i, d_i)
    mask: Tensor  # (B, L) bool, True = real
    longest: int | None = None  # no caption has more real positions; known to the host if they come from shards

    def to(self, device: torch.device | str) -> "TextFeatures":
        """Move the features to another device; uploads to CUDA do not wait."""
        is_upload = torch.device(device).type == "cuda" and self.mask.device.type == "cpu"
        features = {name: x.to(device, non_blocking=is_upload) for name, x in self.features.items()}
        return TextFeatures(features, self.mask.to(device, non_blocking=is_upload), self.longest)

    def pin_memory(self) -> "TextFeatures":
        """Copy to page-locked memory. A DataLoader with ``pin_memory`` calls this."""
        features = {name: x.pin_memory() for name, x in self.features.items()}
        return TextFeatures(features, self.mask.pin_memory(), self.longest)


class TextEncoder(nn.Module, ABC):
    """Interface of a frozen text encoder.

    Attributes:
        name: Name that ``load_text_encoder`` accepts.
        identity: A short string that changes whenever the features would, such as a hash of the weights.
        features: name -> (L_i, d_i) of every feature.
    """

    name: str
    identity: str
    features: dict[str, tuple[int, int]]

    @abstractmethod
    def encode(self, captions: list[str]) -> TextFeatures:
        """Encode B captions without gradients, each padded or truncated to L_i positions, real positions first.

        An encoder without weights may return CPU tensors; callers move them where needed.
        """

    @property
    def device(self) -> torch.device:
        """Device of the weights; the CPU if there are none."""
        return next(self.parameters(), torch.empty(0)).device

    def train(self, mode: bool = True) -> "TextEncoder":
        """Ignore the mode, so that dropout stays off."""
        return super().train(False)

    def describe(self) -> dict[str, Any]:
        """Describe the encoder for the index of shards: name, identity, and shapes of its features."""
        features = {name: list(shape) for name, shape in self.features.items()}
        return {"name": self.name, "identity": self.identity, "features": features}

    def encode_known(self, captions: list[str]) -> TextFeatures:
        """Run ``encode`` with zeros and an all-False mask for clips without a caption (""), as stored in shards."""
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


def warn_of_truncation(encoder: str, caption: str, num_positions: int, end: int | None) -> None:
    """Warn, once per encoder, that ``caption`` has more than ``num_positions`` tokens; ``end`` characters fit."""
    if encoder in _warned:
        return
    _warned.add(encoder)
    kept = ""
    if end is not None:
        words = [match.end() for match in re.finditer(r"\S+", caption)]
        kept = f": the first {sum(word <= end for word in words)} of its {len(words)} words are used"
    logger.warning(
        "a caption is longer than the text encoder's %d positions%s (%s...); other long captions are cut silently",
        *(num_positions, kept, caption[:60]),
    )


class JoinedEncoder(TextEncoder):
    """Concatenation of several encoders' features; ``clap:...+t5:...`` gives IMPACT's 1 + 77 positions.

    Raises:
        UserError: Two of them have a feature of the same name.
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
        """Encode with all encoders: features (B, L_i, d_i), and the mask (B, L) in their order."""
        features: dict[str, Tensor] = {}
        masks = []
        for encoder in self.encoders:
            assert isinstance(encoder, TextEncoder)
            encoded = encoder.encode(captions).to(self.device)
            features |= encoded.features
            masks.append(encoded.mask)
        return TextFeatures(features, torch.cat(masks, dim=1))
