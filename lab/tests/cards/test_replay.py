"""The nearest training clip of a sound."""

import numpy as np
import pytest
import torch

from lab.cards.replay import PERCENTILES, envelope, nearest_embeddings, nearest_envelopes, replay_rows

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


def test_rows_tell_a_replaying_model_from_one_that_does_not():
    random = np.random.default_rng(0)
    training = random.standard_normal((200, 16))
    sets = {
        "codec": training[:50] + 0.2 * random.standard_normal((50, 16)),
        "fresh": random.standard_normal((1500, 16)),
        "copies": training[50:100] + 0.1 * random.standard_normal((50, 16)),
    }
    found = {name: nearest_embeddings(each, training) for name, each in sets.items()}
    rows = replay_rows(found, [f"clip{index}" for index in range(200)], replayed="codec")
    assert rows["codec"]["as_replayed"] == pytest.approx(0.9)
    assert rows["copies"]["as_replayed"] > 0.95
    assert rows["fresh"]["as_replayed"] < 0.05
    assert rows["copies"]["nearest"][3] == "clip53"
    for row in rows.values():
        assert len(row["percentiles"]) == len(PERCENTILES)
        assert row["percentiles"] == sorted(row["percentiles"])
        assert row["percentiles"][-1] == pytest.approx(max(row["similarity"]), abs=1e-4)
