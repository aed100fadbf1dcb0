"""Whole generations are timed, and their parts add up."""

import dataclasses

import pytest
import torch

from impact_pl.config import DecodingConfig, ModelConfig
from lab.benchmark import timing
from lab.benchmark.latency import DecodingVariant, Setting, measure
from lab.benchmark.subject import named, text_positions

CPU = torch.device("cpu")
DECODING = DecodingConfig(num_iterations=3, num_diffusion_steps=4)
VARIANTS = [DecodingVariant(engine, dataclasses.replace(DECODING, engine=engine)) for engine in ("reference", "fused")]


@pytest.mark.parametrize("patch_size", [1, 2, 3])
def test_a_named_model_is_long_enough(patch_size):
    """On the built-in codec's latents, which are narrower than such patches."""
    config = ModelConfig(
        dim=16, depth=1, num_heads=2, head_width=16, head_depth=1, max_patches=2, patch_size=patch_size
    )
    found = named("little", config, duration=0.65, device=CPU, parts=False)
    frames = found.num_frames(0.65)
    assert frames % patch_size == 0
    assert found.num_patches(frames) == found.model.spec.model.max_patches == -(-17 // patch_size)


def test_rows_are_consistent():
    config = ModelConfig(dim=16, depth=1, num_heads=2, head_width=16, head_depth=1, max_patches=16)
    subject = named("little", config, duration=0.64, device=CPU, parts=False)
    preset = DecodingVariant("preset", dataclasses.replace(DECODING, engine="fused", encoder_reuse=2), preset=True)
    rows = measure(Setting(subject, 2, 0.64, 1), [*VARIANTS, preset], [2, 5])
    assert [(row["variant"], row["iterations"]) for row in rows] == [
        *(("reference", 5), ("fused", 5), ("preset", 3), ("reference", 2), ("fused", 2)),
    ]
    for row in rows[:3]:
        assert list(row["parts"]) == ["encoder", "head", "rest"]
        assert min(row["parts"].values()) > 0
    for row in rows:
        assert row["seconds"] == row["generation_seconds"] > 0


def test_text_is_computed_where_it_is():
    """Of 41 positions a caption has 15 and padding."""
    config = ModelConfig(dim=16, depth=1, num_heads=2, head_width=16, head_depth=1, text_padding=2)
    spec = named("little", config, 0.64, CPU, parts=False).model.spec
    spec.text_features = {"clap": (1, 5), "words": (40, 5)}
    assert text_positions(spec) == 17
    spec.model.text_padding = -1
    assert text_positions(spec) == 41
    spec.text_features = {}
    assert text_positions(spec) == 0


def test_calls_take_turns(monkeypatch):
    called: list[str] = []
    calls = {name: (lambda name=name: called.append(name)) for name in "ab"}
    timing.in_turns(calls, 2, CPU)
    assert "".join(called) == "ab" + "abab"
    called.clear()
    monkeypatch.setattr(timing, "LONG", 0.0)  # everything is slow: the warm-up is the one measurement
    assert timing.in_turns(calls, 3, CPU).keys() == calls.keys()
    assert "".join(called) == "ab"
