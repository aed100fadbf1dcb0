"""Estimate metrics with 95 % confidence intervals from the features of sets of sounds.

A metric is a mean over sounds (KL: bootstrap interval) or a property of the complete set (FD, FAD, IS: interval by
jackknife or from splits). Metrics of two networks are not comparable, so keys name the network unless it is YAMNet.

Dimension key: N sounds, T_i embeddings of sound i, D dimensions, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from impact_pl.evaluation import formulas
from impact_pl.evaluation.intervals import Interval, bootstrap_interval, jackknife_interval, splits_interval
from impact_pl.text_encoders.base import TextEncoder

Values = dict[str, float | Interval | None]  # metrics of a row by key, each followed by ``<key>_interval``


@dataclass
class SetFeatures:
    """Features of a set of sounds, computed by a network."""

    embeddings: list[np.ndarray]  # (T_i, D) each
    logits: np.ndarray | None = None  # (N, K), published networks
    scores: np.ndarray | None = None  # (N, K) independent class probabilities, YAMNet

    def take(self, kept: np.ndarray) -> "SetFeatures":
        """Select the sounds with these indices."""
        logits = None if self.logits is None else self.logits[kept]
        scores = None if self.scores is None else self.scores[kept]
        return SetFeatures([self.embeddings[index] for index in kept], logits, scores)


Estimate = tuple[float, Interval | None]


@dataclass(frozen=True)
class Metric:
    """Metric with its key in a row, and its estimator on (sounds, reference, generator)."""

    key: str
    estimate: Callable[[SetFeatures, SetFeatures, np.random.Generator], Estimate]
    paired: bool  # compares each sound with the reference of the same caption
    min_sounds: int = 2


def pair_metric(key: str, function: Callable[[SetFeatures, SetFeatures], np.ndarray]) -> Metric:
    """Define a metric as the mean of ``function`` (reference, sounds) -> (N,)."""

    def estimate(sounds: SetFeatures, reference: SetFeatures, generator: np.random.Generator) -> Estimate:
        values = function(reference, sounds)
        return float(values.mean()), bootstrap_interval(values, generator)

    return Metric(key, estimate, paired=True)


def set_metric(key: str, function: Callable[[SetFeatures, SetFeatures], float]) -> Metric:
    """Define a metric of the whole set by ``function`` (reference, sounds) -> a non-negative number."""

    def estimate(sounds: SetFeatures, reference: SetFeatures, generator: np.random.Generator) -> Estimate:
        value = function(reference, sounds)
        interval = jackknife_interval(
            lambda kept: function(reference.take(kept), sounds.take(kept)), len(sounds.embeddings), value, generator
        )
        return value, None if interval is None else (max(0.0, interval[0]), interval[1])

    return Metric(key, estimate, paired=False)


def frechet(reference: SetFeatures, sounds: SetFeatures) -> float:
    return formulas.frechet_audio_distance(reference.embeddings, sounds.embeddings)


def inception_in_splits(sounds: SetFeatures, reference: SetFeatures, generator: np.random.Generator) -> Estimate:
    mean, deviation = formulas.inception_score_in_splits(sounds.logits)
    return mean, splits_interval(mean, deviation)


def estimate_metrics(
    metrics: Sequence[Metric],
    sounds: SetFeatures,
    reference: SetFeatures,
    with_pairs: bool,
    generator: np.random.Generator,
) -> Values:
    """Estimate the metrics of a row; those that do not apply are None."""
    row: Values = {}
    for metric in metrics:
        applies = with_pairs or not metric.paired
        value, interval = metric.estimate(sounds, reference, generator) if applies else (None, None)
        row[metric.key], row[f"{metric.key}_interval"] = value, interval
    return row


class TextScorer(Protocol):
    """Scores how well sounds match captions."""

    key: str  # key of its metric
    identity: str

    def __call__(self, sounds: SetFeatures) -> np.ndarray:
        """Compute cosine similarities (N captions, N sounds)."""
        ...


class TextRelevance:
    """Text relevance without an audio-text model: compares embeddings of captions and of detected class names."""

    key = "text_relevance"

    def __init__(self, encoder: TextEncoder, captions: list[str], class_names: Sequence[str]):
        self.identity = f"{encoder.name}-{encoder.identity}"
        self.captions = sentence_embeddings(encoder, captions)  # (N, D)
        self.class_names = sentence_embeddings(encoder, class_names)  # (K, D)

    def __call__(self, sounds: SetFeatures) -> np.ndarray:
        return formulas.text_relevance(self.captions, self.class_names, sounds.scores)


class ClapScore:
    """CLAP score as in published tables: cosine similarity of CLAP's text and audio embeddings."""

    key = "clap_score"

    def __init__(self, identity: str, captions: np.ndarray):
        self.identity = identity
        self.captions = captions  # embeddings (N, D)

    def __call__(self, sounds: SetFeatures) -> np.ndarray:
        return formulas.clap_score(np.concatenate(sounds.embeddings), self.captions)


def estimate_text_metric(scorer: TextScorer, sounds: SetFeatures | None, generator: np.random.Generator) -> Values:
    """Estimate the mean score of sounds with their own captions.

    ``_shuffled`` is that with all other captions (chance).
    """
    key = scorer.key
    if sounds is None:
        return {key: None, f"{key}_interval": None, f"{key}_shuffled": None}
    cosines = scorer(sounds)
    own, others = np.diagonal(cosines), cosines[~np.eye(len(cosines), dtype=bool)]
    interval = bootstrap_interval(own, generator)
    return {key: float(own.mean()), f"{key}_interval": interval, f"{key}_shuffled": float(others.mean())}


def sentence_embeddings(encoder: TextEncoder, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """Average the token states of an encoder's first feature over real positions, which is how MiniLM was trained."""
    name, (length, _) = next(iter(encoder.features.items()))
    parts = []
    for start in range(0, len(texts), batch_size):
        text = encoder.encode(list(texts[start : start + batch_size]))
        mask = text.mask[:, :length, None].float()  # (B, L, 1)
        parts.append(((text.features[name] * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu().numpy())
    return np.concatenate(parts)
