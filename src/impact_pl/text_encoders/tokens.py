"""Tokenizers of transformers, and T5's encoder: one feature vector per token.

Dimension key: B batch, L positions, d numbers per position.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from impact_pl.checkpoint_io import DAMAGE, load_frozen, weight_files
from impact_pl.errors import UserError, first_line
from impact_pl.hub import model_folder
from impact_pl.identity import files_identity
from impact_pl.registry import full_name
from impact_pl.text_encoders.base import TextEncoder, TextFeatures, warn_of_truncation

TOKENIZER_FILES = (  # used if the folder has them
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("spiece.model", "vocab.json", "merges.txt"),
)
VOCABULARIES = ("tokenizer.json", "spiece.model", "vocab.json")  # at least one is required


def tokenizer_files(folder: Path) -> list[Path]:
    """List the tokenizer's files in a folder."""
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a folder, refusing folders for which transformers would build one with an empty vocabulary.

    Raises:
        UserError: The folder has no tokenizer, or an unreadable one.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise UserError(f"{folder}: no tokenizer there ({', '.join(VOCABULARIES)})")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (*DAMAGE, ImportError) as error:  # ImportError: reading a spiece.model needs another package
        raise UserError(f"{folder}: unreadable tokenizer ({first_line(error)})") from error


def tokenize(tokenizer: Any, captions: list[str], num_positions: int) -> Any:
    """Tokenize B captions into ids and mask, padded at the end or truncated to (B, ``num_positions``).

    The first truncated caption is logged as a warning.

    Raises:
        UserError: There are no captions.
    """
    if not captions:
        raise UserError("no captions to encode")
    tokens = tokenizer(
        list(captions),
        padding="max_length",
        padding_side="right",
        truncation=True,
        max_length=num_positions,
        return_attention_mask=True,
        return_tensors="pt",
    )
    for index in tokens["attention_mask"].all(dim=1).nonzero():  # all positions are filled: the caption may be longer
        caption = captions[int(index)]
        if len(tokenizer(caption, verbose=False)["input_ids"]) > num_positions:
            end = None
            if tokenizer.is_fast:
                kept = tokenizer(caption, truncation=True, max_length=num_positions, return_offsets_mapping=True)
                end = max(end for _, end in kept["offset_mapping"])
            warn_of_truncation(tokenizer.name_or_path, caption, num_positions, end)
    return tokens


class T5(TextEncoder):
    """Encoder of a T5 (IMPACT: Flan-T5; its parameter count fits flan-t5-large, d = 1024), first 77 positions.

    The features are the last layer's states at the tokens of a caption. Longer captions are truncated; features at
    padding are 0.

    Args:
        source: A folder with config.json, a tokenizer and weights, or ``hub:ID``. Only the encoder of a complete T5 is
            loaded.

    Raises:
        UserError: The folder or a file is missing, or belongs to another model.
    """

    NUM_POSITIONS = 77  # as in IMPACT
    FEATURE = "t5"

    def __init__(self, source: str) -> None:
        from transformers import T5EncoderModel

        super().__init__()
        self.name = full_name("t5", source)
        self.folder = model_folder(source, ["config.json"])
        self.tokenizer = load_tokenizer(self.folder)
        self.model = load_frozen(T5EncoderModel, self.folder)
        self.features = {self.FEATURE: (self.NUM_POSITIONS, self.model.config.hidden_size)}

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """Hash of feature name, number of positions, configuration, tokenizer and weights."""
        files = [self.folder / "config.json", *tokenizer_files(self.folder), *weight_files(self.folder)]
        return files_identity(f"{self.FEATURE} {self.NUM_POSITIONS}", files)

    @torch.no_grad()
    def encode(self, captions: list[str]) -> TextFeatures:
        """Encode B captions into a feature (B, L, d) and the mask (B, L).

        Raises:
            UserError: There are no captions.
        """
        tokens = tokenize(self.tokenizer, captions, self.NUM_POSITIONS).to(self.model.device)
        mask = tokens["attention_mask"].bool()  # (B, L)
        hidden = self.model(**tokens).last_hidden_state  # (B, L, d)
        return TextFeatures({self.FEATURE: hidden * mask[..., None]}, mask)
