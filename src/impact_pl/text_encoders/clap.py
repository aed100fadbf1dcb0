"""CLAP's text tower: one unit-length vector per caption, from transformers or laion-clap checkpoints.

Dimension key: B batch, d numbers of the shared embedding space.
"""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from impact_pl.checkpoint_io import load_frozen, read_checkpoint, state_dict, weight_files
from impact_pl.errors import UserError
from impact_pl.hub import model_folder
from impact_pl.identity import files_identity
from impact_pl.registry import full_name
from impact_pl.text_encoders.base import TextEncoder, TextFeatures
from impact_pl.text_encoders.tokens import load_tokenizer, tokenize, tokenizer_files

NUM_TOKENS = 77  # per caption; laion-clap truncates here
FEATURE = "clap"
TEXT_PARTS = ("text_branch.", "text_projection.")  # prefixes in a laion-clap state dict


class Clap(TextEncoder):
    """CLAP from a folder of transformers' ClapModel, with text embeddings scaled to length 1 as in laion-clap.

    Args:
        source: A folder with config.json, a tokenizer and weights, or ``hub:ID``.

    Raises:
        UserError: The folder or a file is missing, or belongs to another model.
    """

    def __init__(self, source: str) -> None:
        from transformers import ClapModel

        super().__init__()
        self.name = full_name("clap", source)
        self.folder = model_folder(source, ["config.json"])
        self.tokenizer = load_tokenizer(self.folder)
        self.model = load_frozen(ClapModel, self.folder)
        del self.model.audio_model, self.model.audio_projection
        self.features = {FEATURE: (1, self.model.config.projection_dim)}

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """Hash of configuration, tokenizer and weights."""
        files = [self.folder / "config.json", *tokenizer_files(self.folder), *weight_files(self.folder)]
        return files_identity(f"{FEATURE} {NUM_TOKENS}", files)

    @torch.no_grad()
    def encode(self, captions: list[str]) -> TextFeatures:
        """Encode B captions into a feature (B, 1, d) and a mask (B, 1).

        Raises:
            UserError: There are no captions.
        """
        tokens = tokenize(self.tokenizer, captions, NUM_TOKENS).to(self.model.device)
        embeddings = self.model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        return _one_vector(embeddings)


class LaionClap(TextEncoder):
    """CLAP from a laion-clap checkpoint, such as 630k-audioset-fusion-best.pt (IMPACT's).

    The checkpoint has no tokenizer. Put the config.json and tokenizer files of ``roberta-base``
    (FacebookAI/roberta-base on the hub; its weights are not needed) into a folder of that name next to it.

    Note:
        The text tower is RoBERTa and two linear layers, whose weights are loaded into transformers' own RoBERTa. The
        laion-clap package gives the same numbers (``make test-clap``) but is not needed. It unpickles arbitrary files,
        requires numpy below 2, and downloads three tokenizers from the hub when imported.

    Args:
        checkpoint: The file: {"state_dict": {"module.text_branch...": ...}, ...}, or the state dict alone.

    Raises:
        UserError: The file is missing or not from laion-clap, or roberta-base is missing or does not fit.
    """

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        self.name = full_name("laion_clap", checkpoint)
        self.file = Path(checkpoint)
        self.folder = self.file.parent / "roberta-base"
        if not self.file.is_file():
            raise UserError(f"{checkpoint}: no such file; laion_clap:FILE needs a checkpoint of laion-clap")
        if not (self.folder / "config.json").is_file():
            raise UserError(
                f"{self.folder}: config.json missing; put roberta-base's config.json and tokenizer files there "
                f"(hf download FacebookAI/roberta-base --include '*.json' '*.txt' --local-dir {self.folder})"
            )
        self.tokenizer = load_tokenizer(self.folder)
        weights = _text_weights(self.file)
        self.tower = _LaionTextTower(self.folder, weights).requires_grad_(False).eval()
        self.features = {FEATURE: (1, len(weights["text_projection.0.weight"]))}

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """Hash of the checkpoint and of the configuration and tokenizer next to it."""
        files = [self.file, self.folder / "config.json", *tokenizer_files(self.folder)]
        return files_identity(f"laion_{FEATURE} {NUM_TOKENS}", files)

    @torch.no_grad()
    def encode(self, captions: list[str]) -> TextFeatures:
        """Encode B captions into a feature (B, 1, d) and a mask (B, 1).

        Raises:
            UserError: There are no captions.
        """
        tokens = tokenize(self.tokenizer, captions, NUM_TOKENS).to(self.tower.text_branch.device)
        return _one_vector(nn.functional.normalize(self.tower(tokens["input_ids"], tokens["attention_mask"]), dim=-1))


class _LaionTextTower(nn.Module):
    """RoBERTa text tower with laion-clap's parameter names, so that its weights load unchanged."""

    def __init__(self, folder: Path, weights: dict[str, Tensor]) -> None:
        from transformers import RobertaConfig, RobertaModel

        super().__init__()
        width, dim = weights["text_projection.0.weight"].shape[::-1]
        self.text_branch = RobertaModel(RobertaConfig.from_pretrained(folder, local_files_only=True))
        self.text_projection = nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim))
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            what = str(error).splitlines()[1].strip()
            raise UserError(f"the checkpoint's text tower does not fit {folder / 'config.json'}: {what}") from error

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed token ids (B, L) with their mask: (B, d)."""
        return self.text_projection(self.text_branch(input_ids, attention_mask=attention_mask).pooler_output)


def _text_weights(file: Path) -> dict[str, Tensor]:
    content = read_checkpoint(file)
    state = state_dict(content.get("state_dict", content), file)
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    weights = {name: value.float() for name, value in plain.items() if name.startswith(TEXT_PARTS)}
    weights.pop("text_branch.embeddings.position_ids", None)  # a counter, not learned; newer checkpoints lack it
    if weights.get("text_projection.0.weight", torch.empty(0)).ndim != 2:
        raise UserError(f"{file}: no text tower of laion-clap in it (text_branch and text_projection)")
    return weights


def _one_vector(embeddings: Tensor) -> TextFeatures:
    """Wrap embeddings (B, d) as a feature with one position, which is always real."""
    mask = torch.ones(len(embeddings), 1, dtype=torch.bool, device=embeddings.device)
    return TextFeatures({FEATURE: embeddings[:, None]}, mask)
