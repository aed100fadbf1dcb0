"""Steps and learning rate of a tuning."""

from pathlib import Path

import torch

from impact_pl.models.impact import Impact
from impact_pl.tuning.plan import FEWEST_STEPS, LEARNING_RATE, make_plan, time_step
from tests.helpers.recordings import write_tiny_model


def test_more_clips_take_more_steps_until_time_is_short():
    few, some, many = (make_plan(count, 256, 0.1, 3600, 0.25) for count in (5, 50, 1000))
    assert few.steps == FEWEST_STEPS < some.steps < many.steps
    assert few.lr < some.lr < many.lr == LEARNING_RATE
    assert make_plan(50, 256, 1.0, 300, 0.25).steps == 300
    assert make_plan(50, 256, 1.0, 300, 0.25, steps=7).steps == 7
    assert make_plan(1000, 768, 0.1, 3600, 0.25).lr == 1e-4
    assert some.warmup_steps + some.decay_steps <= some.steps


def test_timing_leaves_the_model_alone(tmp_path: Path):
    model = Impact.from_pretrained(write_tiny_model(tmp_path))
    before = [parameter.clone() for parameter in model.parameters()]
    assert 0 < time_step(model, 16, "cpu") < 60
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
