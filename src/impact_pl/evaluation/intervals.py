"""95 % confidence intervals of figures that belong to a whole set of sounds, not to each of them.

A bootstrap draws sounds twice, which biases a Frechet distance: repeated sounds lower the covariance's rank. The
grouped jackknife only leaves sounds out. A figure at 9/10 of N is biased against the one at N too (Chong & Forsyth,
arXiv 1911.07023), but all replicates by the same amount, and only their spread is used.
"""

import math
from collections.abc import Callable

import numpy as np

NUM_GROUPS = 10
QUANTILE = 2.262  # of Student's t with NUM_GROUPS - 1 degrees of freedom, for 95 %
FEWEST_SOUNDS = 2 * NUM_GROUPS

Interval = tuple[float, float]


def jackknife_interval(
    statistic: Callable[[np.ndarray], float], num: int, value: float, generator: np.random.Generator
) -> Interval | None:
    """Interval of the figure that sets of this size have in expectation, by leaving out one tenth after another.

    With replicates s_j, each without one of g groups, the variance is (g - 1)/g sum (s_j - mean)^2 (Shao & Wu 1989),
    which is too large rather than too small on average (Efron & Stein 1981).

    Args:
        statistic: the figure of the sounds with these indices (K,).
        num: sounds in all, N.
        value: the figure of all, the middle of the interval.
        generator: draws the groups.

    Returns:
        None below 20 sounds. The lower end of a figure that cannot be negative is the caller's to cut.

    Note:
        It says how much the figure would move with other sounds of the same kind and number. It does not remove the
        figure's own bias at N, so it may be compared only with figures of the same N.
    """
    if num < FEWEST_SOUNDS:
        return None
    order = generator.permutation(num)
    replicates = np.array([statistic(np.sort(np.delete(order, group))) for group in groups(num)])
    variance = (NUM_GROUPS - 1) / NUM_GROUPS * np.square(replicates - replicates.mean()).sum()
    half = QUANTILE * math.sqrt(variance)
    return value - half, value + half


def splits_interval(mean: float, deviation: float) -> Interval:
    """Interval of a mean over NUM_GROUPS disjoint splits, which are independent of each other.

    Args:
        mean: over the splits.
        deviation: their standard deviation, with NUM_GROUPS in the denominator.
    """
    half = QUANTILE * deviation / math.sqrt(NUM_GROUPS - 1)
    return mean - half, mean + half


def groups(num: int) -> list[np.ndarray]:
    """NUM_GROUPS nearly equal parts of the indices 0 to ``num`` - 1."""
    return np.array_split(np.arange(num), NUM_GROUPS)
