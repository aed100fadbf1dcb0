"""CLAP for the CLAP score (IMPACT Sec. 4): clap-htsat-fused through transformers, from a local folder.

This is not the CLAP checkpoint that conditions the model.

Dimension key: S samples, N captions, D dimensions of the joint space.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from impact_pl.checkpoint_io import DAMAGE, load_frozen, weight_files
from impact_pl.errors import UserError, first_line
from impact_pl.evaluation.estimates import ClapScore
from impact_pl.evaluation.networks.interface import Network, NetworkFeatures, identify, mono, weights_file
from impact_pl.text_encoders.base import TextEncoder
from impact_pl.text_encoders.clap import NUM_TOKENS
from impact_pl.text_encoders.tokens import load_tokenizer, tokenize

FOLDER = "clap-htsat-fused"
SOURCE = "the Hugging Face model laion/clap-htsat-fused, all its files in one folder"
CONFIGURATION = ("config.json", "preprocessor_config.json", "tokenizer.json")
_FRONT_END = "short ones not fused,crops of seed 0,v1"
_BATCH = 32  # captions per batch


class Clap(Network):
    """CLAP from the folder ``weights/clap-htsat-fused``, in Hugging Face's layout.

    Raises:
        UserError: The folder or one of its files is missing, or the model is incomplete.

    Note:
        If no sound of a batch is longer than 10 s, transformers' front end marks a random one as longer and fuses its
        views although they are equal. In a batch of one, this is always the only sound. laion-clap, the origin of the
        weights, never fuses a short sound; neither do we. Both take three random crops of longer sounds; ours come from
        a fixed seed. An embedding is therefore a pure function of the waveform (docs/parity.md has the size of the
        effect).
    """

    name = "clap"
    checkpoint = FOLDER
    text_metric = ClapScore.key

    def __init__(self, weights: str | Path):
        folder = weights_file(weights, FOLDER, SOURCE)
        files = [weights_file(folder, name, SOURCE) for name in CONFIGURATION]
        files += weight_files(folder)
        from transformers import AutoFeatureExtractor, ClapModel  # slow, and only needed here

        try:
            self._front_end = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except DAMAGE as error:
            raise UserError(f"{folder}: its preprocessor_config.json cannot be read ({first_line(error)})") from error
        self._tokenizer = load_tokenizer(folder)
        self.model = load_frozen(ClapModel, folder)
        self.sample_rate: int = self._front_end.sampling_rate
        self.identity = identify(self.name, files, _FRONT_END)

    @torch.inference_mode()
    def __call__(self, waveform: np.ndarray) -> NetworkFeatures:
        """Embed a waveform (S,) at ``sample_rate`` (48 kHz) as one unit-length vector (1, D)."""
        waveform = mono(waveform)
        with _fixed_draws():
            inputs = self._front_end(waveform, sampling_rate=self.sample_rate, return_tensors="pt")
        hop = self._front_end.hop_length
        is_longer = torch.tensor([[len(waveform) // hop > self._front_end.nb_max_samples // hop]])  # in complete frames
        features = self.model.get_audio_features(inputs["input_features"].float(), is_longer=is_longer)
        return NetworkFeatures(features.pooler_output.numpy())

    @torch.inference_mode()
    def embed_text(self, captions: list[str]) -> np.ndarray:
        """Embed captions as unit-length vectors (N, D) float32, truncated at 77 tokens as in laion-clap."""
        embeddings = []
        for start in range(0, len(captions), _BATCH):
            tokens = tokenize(self._tokenizer, captions[start : start + _BATCH], NUM_TOKENS)
            inputs = (tokens["input_ids"], tokens["attention_mask"])
            embeddings.append(self.model.get_text_features(*inputs).pooler_output.numpy())
        return np.concatenate(embeddings)

    def text_scorer(self, captions: list[str] | None, encoder: TextEncoder | None) -> ClapScore:
        """Create the CLAP scorer.

        Raises:
            UserError: A sound has no caption.
        """
        if captions is None:
            raise UserError("the CLAP score needs a caption for every generated sound: give --captions or --test-list")
        return ClapScore(self.identity, self.embed_text(captions))


@contextmanager
def _fixed_draws() -> Iterator[None]:
    """Set numpy's global random state to seed 0 temporarily; the front end uses no other source."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)
