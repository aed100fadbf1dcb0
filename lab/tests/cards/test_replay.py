"""The distribution of similarities to the nearest training clip."""

import numpy as np
import pytest

from impact_pl.evaluation.copies import nearest_embeddings
from lab.cards.replay import PERCENTILES, replay_rows


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
