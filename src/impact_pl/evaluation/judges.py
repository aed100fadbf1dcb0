"""How well sounds fit their captions: the CLAP score, and a relevance that needs no audio-text model.

Dimension key: N sounds and captions, D dimensions, K classes.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from impact_pl.evaluation import metrics
from impact_pl.evaluation.figures import Clips
from impact_pl.evaluation.intervals import Interval
from impact_pl.text_encoders.base import TextEncoder


class Judge(Protocol):
    """How well sounds fit captions."""

    key: str  # of its figure
    identity: str

    def __call__(self, clips: Clips) -> np.ndarray:
        """Sounds -> cosines (N captions, N sounds)."""
        ...


class TextJudge:
    """Relevance without an audio-text model: sentence embeddings of captions, and of the names of the classes heard."""

    key = "text_relevance"

    def __init__(self, encoder: TextEncoder, captions: list[str], class_names: Sequence[str]):
        self.identity = f"{encoder.name}-{encoder.identity}"
        self.captions = sentence_embeddings(encoder, captions)  # (N, D)
        self.class_names = sentence_embeddings(encoder, class_names)  # (K, D)

    def __call__(self, clips: Clips) -> np.ndarray:
        return metrics.text_relevance(self.captions, self.class_names, clips.scores)


class ClapJudge:
    """The CLAP score of published tables: cosines of CLAP's text and audio embeddings."""

    key = "clap_score"

    def __init__(self, identity: str, captions: np.ndarray):
        self.identity = identity
        self.captions = captions  # embeddings (N, D)

    def __call__(self, clips: Clips) -> np.ndarray:
        return metrics.clap_score(np.concatenate(clips.embeddings), self.captions)


def judged(judge: Judge, heard: Clips | None, generator: np.random.Generator) -> dict[str, float | Interval | None]:
    """A row's text figure: the mean over sounds and their own captions, and ``_shuffled`` over all others (chance)."""
    key = judge.key
    if heard is None:
        return {key: None, f"{key}_interval": None, f"{key}_shuffled": None}
    cosines = judge(heard)
    own, others = np.diagonal(cosines), cosines[~np.eye(len(cosines), dtype=bool)]
    interval = metrics.bootstrap_interval(own, generator)
    return {key: float(own.mean()), f"{key}_interval": interval, f"{key}_shuffled": float(others.mean())}


def sentence_embeddings(encoder: TextEncoder, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """Mean of the token states of an encoder's first feature over real positions, which is how MiniLM was trained."""
    name, (length, _) = next(iter(encoder.features.items()))
    parts = []
    for start in range(0, len(texts), batch_size):
        text = encoder.encode(list(texts[start : start + batch_size]))
        mask = text.mask[:, :length, None].float()  # (B, L, 1)
        parts.append(((text.features[name] * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu().numpy())
    return np.concatenate(parts)
