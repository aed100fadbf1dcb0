"""Intervals of figures of whole sets, on Gaussians whose figure in expectation is known by drawing many sets."""

import numpy as np
import pytest

from impact_pl.evaluation.formulas import frechet_distance, inception_score
from impact_pl.evaluation.intervals import QUANTILE, groups, jackknife_interval, splits_interval


def test_the_interval_of_a_mean_is_the_textbooks():
    """With equal groups the grouped jackknife of a mean is the t interval of the groups' means."""
    values = np.random.default_rng(0).standard_normal(200) + 3
    low, high = jackknife_interval(lambda kept: values[kept].mean(), 200, values.mean(), np.random.default_rng(1))
    order = np.random.default_rng(1).permutation(200)
    means = [values[order[group]].mean() for group in groups(200)]
    assert (high - low) / 2 == pytest.approx(QUANTILE * np.std(means, ddof=1) / np.sqrt(10))
    assert (high + low) / 2 == pytest.approx(values.mean())


def test_no_interval_from_a_handful_of_sounds():
    assert jackknife_interval(lambda kept: 0.0, 19, 0.0, np.random.default_rng(0)) is None


@pytest.mark.parametrize(("num", "dim"), [(200, 8), (60, 100)])
def test_the_interval_of_a_frechet_distance_covers_its_expectation(num, dim):
    """Both where N exceeds the dimensions and where it does not (there, a bootstrap's percentiles lie far above)."""
    generator = np.random.default_rng(2)
    scale = np.linspace(0.5, 2, dim)

    def sets():
        return generator.standard_normal((num, dim)) * scale, generator.standard_normal((num, dim)) * scale + 0.3

    expected = np.mean([frechet_distance(*sets()) for _ in range(100)])
    covered = 0
    for _ in range(60):
        first, second = sets()
        low, high = jackknife_interval(
            lambda kept, first=first, second=second: frechet_distance(first[kept], second[kept]),
            num,
            frechet_distance(first, second),
            generator,
        )
        covered += low <= expected <= high
    assert covered >= 52  # 57 in expectation; fewer than 52 of 60 has a chance of 1 % at 95 % coverage


def test_the_interval_of_an_inception_score_covers_its_expectation():
    generator = np.random.default_rng(3)

    def distributions():
        odds = np.exp(2 * generator.standard_normal((100, 12)))
        return odds / odds.sum(axis=1, keepdims=True)

    expected = np.mean([inception_score(distributions()) for _ in range(200)])
    covered = 0
    for _ in range(60):
        drawn = distributions()
        low, high = jackknife_interval(
            lambda kept, drawn=drawn: inception_score(drawn[kept]), 100, inception_score(drawn), generator
        )
        covered += low <= expected <= high
    assert covered >= 52


def test_splits_interval():
    scores = np.random.default_rng(4).standard_normal(10)
    low, high = splits_interval(scores.mean(), scores.std())
    assert (high - low) / 2 == pytest.approx(QUANTILE * np.std(scores, ddof=1) / np.sqrt(10))
