"""The nearest training clip of a sound, and whether a model copies."""

import numpy as np
import pytest
import torch

from impact_pl.evaluation.copies import envelope, judge_copies, nearest_embeddings, nearest_envelopes

RATE = 16_000


def bursts(seed: int, seconds: float = 2.0) -> torch.Tensor:
    """Noise that comes and goes ten times a second, at random levels, in a band of its own (S,)."""
    random = torch.Generator().manual_seed(seed)
    gains = torch.rand(round(10 * seconds), generator=random).repeat_interleave(RATE // 10)
    tone = torch.sin(2 * torch.pi * (300 + 200 * seed) * torch.arange(len(gains)) / RATE)
    return 0.2 * gains * (tone + 0.3 * torch.randn(len(gains), generator=random))


def test_the_nearest_embedding_is_found_whatever_its_length():
    training = np.random.default_rng(0).standard_normal((3000, 16))
    cosines, whose = nearest_embeddings(3.0 * training[[2500, 7]], training)
    assert list(whose) == [2500, 7]
    assert cosines == pytest.approx([1.0, 1.0])
    assert nearest_embeddings(np.array([[1.0, 1.0]]), np.eye(2))[0] == pytest.approx([np.sqrt(0.5)])


def test_a_copy_is_found_by_its_envelope_whatever_its_level_and_place():
    training = torch.stack([envelope(bursts(seed)) for seed in range(20)])
    assert training.shape == (20, 16, 50)
    assert training.flatten(1).norm(dim=1) == pytest.approx(1.0)
    sounds = [0.3 * bursts(5), bursts(7) + 0.01 * bursts(42), bursts(3).roll(RATE // 2), bursts(99)]
    similarity, whose = nearest_envelopes(torch.stack([envelope(each) for each in sounds]), training)
    assert list(whose[:3]) == [5, 7, 3]
    assert (similarity[:2] > 0.9).all()
    assert similarity[2] > 0.9
    assert similarity[3] < 0.7  # bursts have something in common
    around = nearest_envelopes(envelope(bursts(3).roll(RATE // 2))[None], training[3:4])[0]
    assert around > 0.9  # as data.random_shift trains them


def test_silence_and_steady_sounds_resemble_nothing():
    steady = torch.stack([envelope(torch.zeros(RATE)), envelope(bursts(1)[:RATE])])
    assert steady[0].abs().max() < 1e-3
    assert nearest_envelopes(steady, steady)[0] == pytest.approx([0.0, 1.0], abs=1e-2)


def test_a_model_that_copies_is_told_from_one_that_does_not():
    training = torch.stack([envelope(bursts(seed)) for seed in range(20)])

    def closeness(sounds) -> np.ndarray:
        return nearest_envelopes(torch.stack([envelope(each) for each in sounds]), training)[0]

    held_out = closeness(bursts(seed) for seed in range(100, 120))
    replayed = closeness(bursts(seed) + 0.003 * torch.randn(2 * RATE, generator=torch.Generator()) for seed in range(9))
    copied = closeness(0.5 * bursts(seed).roll(4000) + 0.01 * bursts(seed + 50) for seed in range(12))
    fresh = closeness(bursts(seed) for seed in range(200, 220))
    verdict = judge_copies(copied, held_out, replayed)
    assert verdict.copies
    assert verdict.share > 0.9
    assert verdict.words == "copies: 11 of 12 sounds are closer to a training clip than 0.90"
    assert not judge_copies(fresh, held_out, replayed).copies
    mixed = np.concatenate([copied[:5], fresh])
    assert judge_copies(mixed, held_out, replayed).copies


def test_the_copy_test_says_when_it_cannot_tell():
    high = np.full(10, 0.97)
    assert judge_copies(high, high[:4], high).words.startswith("cannot tell: 4 held-out recordings, at least 5")
    verdict = judge_copies(high, high, np.full(10, 0.96))
    assert verdict.copies is None
    assert "as close to training clips (0.97) as copies are (0.96)" in verdict.words
