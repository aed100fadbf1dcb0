"""One generator for a batch keeps one stream; one per clip makes each clip independent of the others."""

import dataclasses

import pytest
import torch

from impact_pl.codecs.registry import load_codec
from impact_pl.inference.generate import generate
from impact_pl.models.heads import HEADS
from impact_pl.models.impact import Impact
from impact_pl.randomness import clip_generators, draw_gumbel, draw_normal, draw_normals, draw_uniform, host_generator
from tests.helpers.models import QUICK, build, captions, model_with

NUM_CLIPS = 8
SETTINGS = [
    {},
    {"order": "confidence"},
    {"reveal": "adaptive"},
    {"reveal": "adaptive", "order": "confidence"},
    {"solver": "ddim", "temperature": 0.8},
    {"guidance_schedule": "constant", "encoder_reuse": 2},
]


def generators(indices=range(NUM_CLIPS)):
    return clip_generators(list(indices), [None] * len(list(indices)), "latents")


def make(model: Impact, indices: list[int], text, decoding) -> torch.Tensor:
    """Latents of some of eight clips, in a batch."""
    some = dataclasses.replace(
        text, features={name: x[indices] for name, x in text.features.items()}, mask=text.mask[indices]
    )
    return generate(model, some, 12, len(indices), decoding, generators(indices))


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Up to float32's rounding through three iterations, as a share of the largest number (about 50)."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * max(1.0, theirs.abs().max().item()))


def check(model: Impact, **options) -> None:
    """Each clip alone, and all in another order, are what they are in the batch."""
    text, decoding = captions(NUM_CLIPS), dataclasses.replace(QUICK, **options)
    text.mask[::2, 2:] = False  # of other lengths
    batch = make(model, list(range(NUM_CLIPS)), text, decoding)
    order = [3, 7, 0, 5, 1, 6, 2, 4]
    assert_same(make(model, order, text, decoding), batch[order])
    for i in range(NUM_CLIPS):
        assert_same(make(model, [i], text, decoding)[0], batch[i])
    assert not torch.allclose(batch[0], batch[1], rtol=0, atol=0.1)


@pytest.mark.parametrize("engine", ["fused", "reference"])
@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("head", HEADS)
def test_a_clip_does_not_depend_on_its_batch(head, order, engine):
    if (head, order) == ("mse", "confidence"):
        pytest.skip("this head has no confidence")
    check(model_with(head), order=order, engine=engine)


@pytest.mark.parametrize("options", SETTINGS)
def test_a_clip_does_not_depend_on_its_batch_under_any_setting(options):
    check(build(depth=2, head_depth=2, text_padding=1), **options)


def test_a_codec_draws_per_clip():
    codec = load_codec("builtin")
    latents = torch.randn(3, 64, 10, 1, generator=torch.Generator().manual_seed(0))
    batch = codec.decode(latents, generators(range(3)))
    for i in range(3):
        assert_same(codec.decode(latents[i : i + 1], generators([i]))[0], batch[i])


@pytest.mark.parametrize("draw", [draw_normal, draw_uniform, draw_gumbel])
def test_rows_belong_to_clips_in_turn(draw):
    """Six rows of three clips: what each clip's generator gives, one row after the other."""
    drawn = draw((6, 2, 5), generators(range(3)), "cpu")
    for i in range(3):
        assert torch.equal(drawn[i::3], draw((2, 2, 5), generators([i]), "cpu"))


def test_one_generator_is_one_stream():
    plain, ours = (torch.Generator().manual_seed(1) for _ in range(2))
    assert torch.equal(draw_normal((2, 20), ours, "cpu"), torch.randn(2, 20, generator=plain))
    want = [torch.randn(2, 20, generator=plain) for _ in range(3)]
    assert torch.equal(torch.stack(list(draw_normals(3, (2, 20), ours, "cpu"))), torch.stack(want))
    assert host_generator(ours) is ours


def test_a_generator_follows_from_seed_caption_and_purpose():
    first = [generator.initial_seed() for generator in clip_generators([0, 1, 0], ["rain", "rain", "wind"], "latents")]
    again = [clip_generators([s], [c], "latents")[0].initial_seed() for s, c in ((0, "rain"), (1, "rain"), (0, "wind"))]
    assert first == again
    assert len({*first, clip_generators([0], ["rain"], "codec")[0].initial_seed()}) == 4
