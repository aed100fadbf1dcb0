"""Formulas of the metrics: pure functions on features, independent of networks and files.

All computations are in float64 numpy.

Dimension key: N sounds, D embedding, K classes.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from impact_pl.errors import UserError

NUM_SPLITS = 10  # of the inception score in published tables
EPSILON = 1e-6  # inside a logarithm, as in audioldm_eval

Features = Any  # an array, a tensor or nested lists, checked by _matrix


def frechet_distance(first: Features, second: Features) -> float:
    """Compute the squared Frechet distance between Gaussians fitted to embeddings (N1, D) and (N2, D).

    |mean1 - mean2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2), with unbiased covariances. It decreases with N even between
    equal distributions, so compare only values at equal N, next to the distance between real sounds.

    Note:
        With centred data X1, X2, C = X^T X / (N - 1), and tr (C1 C2)^(1/2) is the sum of the singular values of X1 X2^T
        / sqrt((N1 - 1)(N2 - 1)). This is exact for rank-deficient covariances (N <= D), needs no matrix root, and is
        cheaper in that case. If both N exceed D, the moments are used.

    Raises:
        UserError: A side has fewer than two embeddings or not two axes, or the sides differ in D.
    """
    first, second = _matrix(first), _matrix(second)
    if first.shape[1] != second.shape[1]:
        raise UserError(f"embeddings of {first.shape[1]} and {second.shape[1]} dimensions cannot be compared")
    if min(len(first), len(second)) < 2:
        raise UserError(f"a Frechet distance needs at least 2 sounds on each side, got {len(first)} and {len(second)}")
    means = first.mean(axis=0), second.mean(axis=0)
    if min(len(first), len(second)) > first.shape[1]:
        return frechet_distance_of_moments(means[0], np.cov(first.T), means[1], np.cov(second.T))
    first = (first - means[0]) / np.sqrt(len(first) - 1)
    second = (second - means[1]) / np.sqrt(len(second) - 1)
    overlap = np.linalg.norm(first @ second.T, ord="nuc")
    distance = np.square(means[0] - means[1]).sum() + np.square(first).sum() + np.square(second).sum() - 2 * overlap
    return max(0.0, float(distance))


def frechet_distance_of_moments(mean1: Features, cov1: Features, mean2: Features, cov2: Features) -> float:
    """Compute the squared Frechet distance of two Gaussians: means (D,), covariances (D, D), possibly singular.

    tr (C1 C2)^(1/2) is the sum of the square roots of the eigenvalues of the symmetric R C2 R with R = C1^(1/2). This
    avoids the root of a non-symmetric matrix and its complex rounding errors.
    """
    mean1, mean2 = (np.asarray(mean, dtype=np.float64).reshape(-1) for mean in (mean1, mean2))
    cov1, cov2 = (np.asarray(cov, dtype=np.float64).reshape(len(mean1), len(mean1)) for cov in (cov1, cov2))
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    product = root @ cov2 @ root
    overlap = np.sqrt(np.clip(np.linalg.eigvalsh((product + product.T) / 2), 0.0, None)).sum()
    distance = np.square(mean1 - mean2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * overlap
    return max(0.0, float(distance))


def frechet_audio_distance(reference: Sequence, generated: Sequence) -> float:
    """Compute FAD: the Frechet distance between all windows of all sounds, lists of (T_i, D), stacked.

    A longer sound has more weight, as in frechet-audio-distance and audioldm_eval.

    Raises:
        UserError: A side has no sounds, or :func:`frechet_distance` rejects the embeddings.
    """
    if not len(reference) or not len(generated):
        raise UserError(f"FAD needs sounds on each side, got {len(reference)} and {len(generated)}")
    return frechet_distance(np.concatenate(reference), np.concatenate(generated))


def class_distribution(scores: Features) -> np.ndarray:
    """Turn independent class probabilities (N, K), such as YAMNet's, into one distribution per sound (N, K).

    This is the softmax of their logits, as audioldm_eval does for PANNs: each class in proportion to its odds.
    """
    scores = np.clip(_matrix(scores), EPSILON, 1 - EPSILON)
    odds = scores / (1 - scores)
    return odds / odds.sum(axis=1, keepdims=True)


def kl_divergence(reference: Features, generated: Features) -> np.ndarray:
    """Compute KL(reference || generated) of each pair of class distributions (N, K) -> (N,), in nats.

    Row i of both inputs belongs to the same caption. The mean over pairs is audioldm_eval's
    ``kullback_leibler_divergence_softmax`` (including its 1e-6 inside the logarithm of the generated side).
    """
    reference, generated = _same_shape(reference, generated)
    terms = reference * (np.log(np.maximum(reference, 1e-300)) - np.log(generated + EPSILON))
    return np.maximum(0.0, terms.sum(axis=1))


def kl_softmax(reference: Features, generated: Features, epsilon: float = EPSILON) -> np.ndarray:
    """Compute the KL of published tables: of each pair's softmax distributions, logits (N, K) -> (N,), in nats.

    The mean over pairs is audioldm_eval's ``kullback_leibler_divergence_softmax``, and with ``epsilon`` 0 that of
    av-benchmark. The epsilon added to the generated probability makes nearly equal pairs slightly negative (by K
    epsilon at most). This is kept for comparability.
    """
    reference, generated = _same_shape(reference, generated)
    log_reference, log_generated = _log_softmax(reference), _log_softmax(generated)
    if epsilon:
        log_generated = np.log(np.exp(log_generated) + epsilon)
    return (np.exp(log_reference) * (log_reference - log_generated)).sum(axis=1)


def kl_sigmoid(reference: Features, generated: Features, epsilon: float = EPSILON) -> np.ndarray:
    """Compute audioldm_eval's ``kullback_leibler_divergence_sigmoid`` of each pair of logits (N, K) -> (N,).

    It is the sum of p log (p / q) over independent class probabilities. Without the terms of 1 - p this is not a
    divergence: it may be negative, and it may be 0 for different inputs. Some systems report it next to KL, so it is
    offered, but never as our headline.
    """
    reference, generated = _same_shape(reference, generated)
    log_reference, log_generated = -np.logaddexp(0, -reference), -np.logaddexp(0, -generated)
    if epsilon:
        log_generated = np.log(np.exp(log_generated) + epsilon)
    return (np.exp(log_reference) * (log_reference - log_generated)).sum(axis=1)


def inception_score_in_splits(logits: Features, num_splits: int = NUM_SPLITS, seed: int = 2020) -> tuple[float, float]:
    """Compute the IS of published tables: mean and deviation over splits of shuffled logits (N, K), as audioldm_eval.

    Args:
        logits: Before the softmax.
        num_splits: Number of splits. Each split's mean distribution stands for the complete set, so IS cannot exceed N
            / num_splits.
        seed: Seed of numpy's RandomState, whose permutation of the rows in file name order is part of the protocol.

    Raises:
        UserError: There are fewer sounds than splits.
    """
    logits = _matrix(logits)
    if len(logits) < num_splits:
        raise UserError(f"an inception score in {num_splits} splits needs at least as many sounds, got {len(logits)}")
    shuffled = logits[np.random.RandomState(seed).permutation(len(logits))]
    bounds = np.arange(num_splits + 1) * len(logits) // num_splits
    distributions = np.exp(_log_softmax(shuffled))
    scores = [inception_score(distributions[a:b]) for a, b in pairwise(bounds)]
    return float(np.mean(scores)), float(np.std(scores))


def clap_score(audio: Features, text: Features) -> np.ndarray:
    """Compute the cosine of every caption's CLAP embedding (N, D) with every sound's (M, D) -> (N, M).

    The mean of the diagonal is the CLAP score; the other entries give the chance level. Values are neither clipped at 0
    nor scaled, unlike CLIPScore (as in frechet-audio-distance and av-benchmark).
    """
    return _unit(_matrix(text)) @ _unit(_matrix(audio)).T


def inception_score(distributions: Features) -> float:
    """Compute exp of the mean KL of each sound's class distribution (N, K) to their mean: 1 (all alike) to min(N, K).

    There are no splits because N is small here. The score grows with N, so compare values at equal N only.
    """
    distributions = _matrix(distributions)
    mean = distributions.mean(axis=0)
    logs = np.log(np.maximum(distributions, 1e-300)) - np.log(np.maximum(mean, 1e-300))
    return float(np.exp((distributions * logs).sum(axis=1).mean()))


def embedding_cosine(reference: Features, generated: Features) -> np.ndarray:
    """Compute the cosine of each pair of embeddings (N, D) -> (N,)."""
    reference, generated = _same_shape(reference, generated)
    return (_unit(reference) * _unit(generated)).sum(axis=1)


def top1_agreement(reference: Features, generated: Features) -> np.ndarray:
    """Return 1 for pairs whose class scores (N, K) peak at the same class, else 0 -> (N,)."""
    reference, generated = _same_shape(reference, generated)
    return (reference.argmax(axis=1) == generated.argmax(axis=1)).astype(np.float64)


def text_relevance(captions: Features, class_names: Features, scores: Features) -> np.ndarray:
    """Compute the relevance of every sound for every caption, without a joint audio-text model.

    A sound is described by its detected classes: the sum of the class names' sentence embeddings, weighted by the class
    scores. The relevance is the cosine similarity between that description and the caption's sentence embedding.

    Args:
        captions: Sentence embeddings of the captions (N, D).
        class_names: Sentence embeddings of the class names (K, D).
        scores: Class scores of the sounds (M, K).

    Returns:
        (N, M). The diagonal is the relevance; the other entries (captions with other captions' sounds) give the chance
        level.
    """
    return _unit(_matrix(captions)) @ _unit(_matrix(scores) @ _unit(_matrix(class_names))).T


def _matrix(values: Features) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise UserError(f"expected two axes (sounds, dimensions), got shape {values.shape}")
    if not np.isfinite(values).all():
        raise UserError(f"features of sound {int(np.argwhere(~np.isfinite(values))[0, 0])} are not finite")
    return values


def _same_shape(reference: Features, generated: Features) -> tuple[np.ndarray, np.ndarray]:
    reference, generated = _matrix(reference), _matrix(generated)
    if reference.shape != generated.shape:
        raise UserError(f"pairs need equal shapes, got {reference.shape} and {generated.shape}")
    return reference, generated


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
