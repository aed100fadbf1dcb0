"""What a figure is, each with its 95 % interval. Which of them a network makes stands in its own class (``figures``).

A figure is either a mean over sounds (KL: interval by bootstrap) or a number of the whole set (FD, FAD, IS: interval by
jackknife, or from the splits). Its key names the network wherever that is not YAMNet, because figures of two networks
are not comparable.

Dimension key: N sounds, T_i embeddings of sound i, D dimensions, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from impact_pl.evaluation import metrics
from impact_pl.evaluation.intervals import Interval, jackknife_interval, splits_interval


@dataclass
class Clips:
    """What a network says about a set of sounds."""

    embeddings: list[np.ndarray]  # (T_i, D) each
    logits: np.ndarray | None = None  # (N, K), published networks
    scores: np.ndarray | None = None  # (N, K) independent class probabilities, YAMNet

    def take(self, kept: np.ndarray) -> "Clips":
        """The sounds with these indices."""
        logits = None if self.logits is None else self.logits[kept]
        scores = None if self.scores is None else self.scores[kept]
        return Clips([self.embeddings[index] for index in kept], logits, scores)


Estimate = tuple[float, Interval | None]


@dataclass(frozen=True)
class Figure:
    """A column: its key in a row, and how it is computed from (sounds, reference, generator)."""

    key: str
    estimate: Callable[[Clips, Clips, np.random.Generator], Estimate]
    paired: bool  # needs the sound and the reference of one caption, row by row
    fewest: int = 2  # sounds


def mean_of_pairs(key: str, function: Callable[[Clips, Clips], np.ndarray]) -> Figure:
    """A figure that is the mean of ``function`` (reference, sounds) -> (N,)."""

    def estimate(clips: Clips, reference: Clips, generator: np.random.Generator) -> Estimate:
        values = function(reference, clips)
        return float(values.mean()), metrics.bootstrap_interval(values, generator)

    return Figure(key, estimate, paired=True)


def of_the_set(key: str, function: Callable[[Clips, Clips], float]) -> Figure:
    """A figure of the whole set: ``function`` (reference, sounds) -> a number that is not negative."""

    def estimate(clips: Clips, reference: Clips, generator: np.random.Generator) -> Estimate:
        value = function(reference, clips)
        interval = jackknife_interval(
            lambda kept: function(reference.take(kept), clips.take(kept)), len(clips.embeddings), value, generator
        )
        return value, None if interval is None else (max(0.0, interval[0]), interval[1])

    return Figure(key, estimate, paired=False)


def frechet(reference: Clips, clips: Clips) -> float:
    return metrics.frechet_audio_distance(reference.embeddings, clips.embeddings)


def inception_in_splits(clips: Clips, reference: Clips, generator: np.random.Generator) -> Estimate:
    mean, deviation = metrics.inception_score_in_splits(clips.logits)
    return mean, splits_interval(mean, deviation)


def figures_of(
    figures: Sequence[Figure], clips: Clips, reference: Clips, with_pairs: bool, generator: np.random.Generator
) -> dict[str, float | Interval | None]:
    """A row's figures; what does not apply is None. ``<key>_interval`` stands beside each."""
    row: dict[str, float | Interval | None] = {}
    for figure in figures:
        applies = with_pairs or not figure.paired
        value, interval = figure.estimate(clips, reference, generator) if applies else (None, None)
        row[figure.key], row[f"{figure.key}_interval"] = value, interval
    return row
