"""Metrics against closed forms."""

import numpy as np
import pytest

from impact_pl.evaluation.formulas import (
    class_distribution,
    embedding_cosine,
    frechet_distance,
    frechet_distance_of_moments,
    inception_score,
    kl_divergence,
    text_relevance,
    top1_agreement,
)
from impact_pl.evaluation.intervals import bootstrap_interval


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_frechet_distance_of_diagonal_gaussians():
    """Commuting covariances: |m1 - m2|^2 + sum (sqrt v1 - sqrt v2)^2."""
    mean, variance = np.array([1.0, -2.0, 0.5]), np.array([4.0, 1.0, 0.0])
    expected = 5.25 + (2 - 1) ** 2 + (1 - 3) ** 2 + (0 - 2) ** 2
    actual = frechet_distance_of_moments(mean, np.diag(variance), np.zeros(3), np.diag([1.0, 9.0, 4.0]))
    assert actual == pytest.approx(expected)


def test_frechet_distance_in_one_dimension():
    first, second = np.array([[0.0], [2.0]]), np.array([[5.0], [5.0], [8.0]])
    expected = (1 - 6) ** 2 + (np.sqrt(2) - np.sqrt(3)) ** 2
    assert frechet_distance(first, second) == pytest.approx(expected)


@pytest.mark.parametrize("num", [(5, 7), (40, 7), (7, 40), (60, 50)])
def test_embeddings_and_moments_agree(num):
    """The singular-value form equals the eigenvalue form, for fewer and for more sounds than dimensions."""
    first, second = random(0, num[0], 20) @ random(2, 20, 20), random(1, num[1], 20) + 0.3
    moments = first.mean(0), np.cov(first.T), second.mean(0), np.cov(second.T)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance_of_moments(*moments), rel=1e-6)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-6)


def test_frechet_distance_agrees_with_the_matrix_root():
    linalg = pytest.importorskip("scipy.linalg")
    first, second = random(3, 50, 6) @ random(4, 6, 6), random(5, 60, 6) + 1
    cov1, cov2 = np.cov(first.T), np.cov(second.T)
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(
        cov1 + cov2 - 2 * np.real(linalg.sqrtm(cov1 @ cov2))
    )
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_frechet_distance_of_a_set_to_itself_and_to_its_shift():
    embeddings = random(6, 8, 100)  # rank 7 of 100
    assert frechet_distance(embeddings, embeddings) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(embeddings, embeddings + 2) == pytest.approx(400)


@pytest.mark.parametrize("num", [0, 1])
def test_frechet_distance_needs_two_sounds(num):
    with pytest.raises(ValueError, match=f"got {num} and 5"):
        frechet_distance(np.ones((num, 3)), np.ones((5, 3)))


def test_class_distribution_is_the_softmax_of_logits():
    logits = random(7, 4, 9)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(class_distribution(1 / (1 + np.exp(-logits))), softmax)
    assert np.isfinite(class_distribution([[0.0, 1.0]])).all()


def test_kl_divergence():
    reference, generated = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.25, 0.75], [0.5, 0.5]])
    expected = [0.5 * np.log(2) + 0.5 * np.log(2 / 3), np.log(2)]
    np.testing.assert_allclose(kl_divergence(reference, generated), expected, atol=1e-5)
    np.testing.assert_allclose(kl_divergence(reference, reference), 0, atol=1e-5)


def test_inception_score_runs_from_one_to_the_number_of_classes():
    assert inception_score(np.eye(5)) == pytest.approx(5)
    assert inception_score(np.full((5, 4), 0.25)) == pytest.approx(1)
    assert inception_score([[1.0, 0.0], [0.5, 0.5]]) == pytest.approx(
        np.exp((np.log(4 / 3) + 0.5 * np.log(2 / 3) + 0.5 * np.log(2)) / 2)
    )


def test_paired_agreement():
    reference = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    generated = np.array([[2.0, 0.0], [1.0, 0.0], [4.0, 3.0]])
    np.testing.assert_allclose(embedding_cosine(reference, generated), [1, 0, 0.96])
    np.testing.assert_array_equal(top1_agreement(reference, generated), [1, 0, 0])
    with pytest.raises(ValueError, match="equal shapes"):
        top1_agreement(reference, generated[:2])


def test_text_relevance_finds_the_sound_of_a_caption():
    class_names = np.eye(3)  # three orthogonal words
    captions = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    scores = np.array([[0.9, 0.0, 0.0], [0.0, 0.3, 0.3], [0.0, 0.0, 0.7]])
    expected = [[1, 0, 0], [0, 1, np.sqrt(0.5)]]
    np.testing.assert_allclose(text_relevance(captions, class_names, scores), expected, atol=1e-12)


def test_bootstrap_interval_of_a_mean():
    values = random(8, 400)
    low, high = bootstrap_interval(values, np.random.default_rng(0))
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / np.sqrt(400), rel=0.1)
    assert bootstrap_interval(values, np.random.default_rng(0)) == (low, high)


def test_features_that_are_not_finite_are_named():
    with pytest.raises(ValueError, match="sound 1"):
        inception_score([[0.5, 0.5], [np.nan, 1.0]])
