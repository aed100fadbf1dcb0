"""95 % confidence intervals: bootstrap for means over sounds, jackknife for metrics of a set of sounds.

A bootstrap draws sounds repeatedly, which biases a Frechet distance: repeated sounds lower the covariance's rank. The
grouped jackknife only leaves sounds out. A metric at 9/10 of N is biased against the one at N too (Chong & Forsyth,
arXiv 1911.07023), but all replicates by the same amount, and only their spread is used.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from impact_pl.errors import UserError

NUM_GROUPS = 10
QUANTILE = 2.262  # Student's t with NUM_GROUPS - 1 degrees of freedom, 95 %
FEWEST_SOUNDS = 2 * NUM_GROUPS

Interval = tuple[float, float]


def bootstrap_interval(values: ArrayLike, generator: np.random.Generator, num_resamples: int = 1000) -> Interval:
    """Estimate the percentile bootstrap interval of the mean of values (N,), resampling with replacement."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        raise UserError("a bootstrap interval needs at least one value")
    draws = generator.integers(len(values), size=(num_resamples, len(values)))
    low, high = np.quantile([np.mean(values[draw]) for draw in draws], [0.025, 0.975])
    return float(low), float(high)


def jackknife_interval(
    statistic: Callable[[np.ndarray], float], num: int, value: float, generator: np.random.Generator
) -> Interval | None:
    """Estimate the interval of a set metric by leaving out one tenth of the sounds at a time.

    With replicates s_j, each without one of g groups, the variance is (g - 1)/g sum (s_j - mean)^2 (Shao & Wu 1989). On
    average this overestimates the variance (Efron & Stein 1981).

    Args:
        statistic: Computes the metric of the sounds with these indices (K,).
        num: Number of sounds, N.
        value: Metric of all sounds, the middle of the interval.
        generator: Draws the groups.

    Returns:
        The interval, or None below 20 sounds. For non-negative metrics the caller clips the lower end.

    Note:
        The interval describes how much the metric would vary with other sounds of the same kind and number. It does not
        remove the metric's own bias at N, so compare only values at the same N.
    """
    if num < FEWEST_SOUNDS:
        return None
    order = generator.permutation(num)
    replicates = np.array([statistic(np.sort(np.delete(order, group))) for group in groups(num)])
    variance = (NUM_GROUPS - 1) / NUM_GROUPS * np.square(replicates - replicates.mean()).sum()
    half = QUANTILE * math.sqrt(variance)
    return value - half, value + half


def splits_interval(mean: float, deviation: float) -> Interval:
    """Compute Student's t interval of a mean over NUM_GROUPS disjoint, independent splits.

    Args:
        mean: Mean over the splits.
        deviation: Their standard deviation, with NUM_GROUPS in the denominator.
    """
    half = QUANTILE * deviation / math.sqrt(NUM_GROUPS - 1)
    return mean - half, mean + half


def groups(num: int) -> list[np.ndarray]:
    """Split the indices 0 to ``num`` - 1 into NUM_GROUPS nearly equal parts."""
    return np.array_split(np.arange(num), NUM_GROUPS)
