"""The encoder with reuse: what is computed anew, what is stale, and that nothing else changes."""

import dataclasses

import pytest
import torch

from impact_pl.config import DecodingConfig
from impact_pl.inference.generate import generate
from impact_pl.inference.reuse import ReusingEncoder
from impact_pl.sampling.decoding import check_decoding
from tests.helpers.models import build, captions, rng

OPTIONS = [{}, {"local_kernel": 3, "prediction": "velocity"}, {"text_padding": 1}]  # of the model
ORDER = torch.stack([torch.randperm(12, generator=rng(row)) for row in range(2)])


def calls(model, counts, text=None):
    """(patches, mask, cond, positions, number known) of iterations that know so many patches each; each asks for 2."""
    patches = torch.randn(2, 12, 4, generator=rng())
    cond = model.embed_text(text, 2)
    for count in counts:
        mask = torch.ones(2, 12, dtype=torch.bool).scatter(1, ORDER[:, :count], False)
        yield patches, mask, cond, ORDER[:, count : count + 2], count


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("period", [1, 3])
def test_every_periodth_call_computes_all(period, options):
    model = build(depth=2, **options)
    reusing = ReusingEncoder(model.encoder, period)
    for i, call in enumerate(calls(model, [0, 2, 3, 6, 7, 10], captions())):
        same = torch.allclose(reusing(*call), model.encoder(*call), rtol=0, atol=1e-5)
        assert same == (i % period == 0)


@torch.no_grad()
def test_nothing_is_stale_where_nothing_can_be():
    """One block a stack, no text: keys depend on the input alone, and patches known for the first time are new."""
    model = build({}, depth=1)
    reusing = ReusingEncoder(model.encoder, 9)
    first, second, third = calls(model, [0, 4, 6])
    for call in (first, second):
        torch.testing.assert_close(reusing(*call), model.encoder(*call))
    assert not torch.allclose(reusing(*third), model.encoder(*third))  # the 4 do not know of the 2


@torch.no_grad()
def test_new_and_asked_positions_have_their_neighbours():
    """With blocks that do nothing, all that is known of a position is its neighbours: none of it is stale."""
    model = build({}, local_kernel=3)
    for block in (*model.encoder.enc1.blocks, *model.encoder.enc2.blocks):
        for layer in (block.attn.proj, block.mlp.fc2):
            torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    reusing = ReusingEncoder(model.encoder, 9)
    for call in calls(model, [0, 3, 6]):
        torch.testing.assert_close(reusing(*call), model.encoder(*call))


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS)
def test_older_patches_are_not_read_again_and_new_ones_are(options):
    model = build(depth=2, **options)
    hidden = []
    for other in (None, 0, 3):  # position in the order of the patch that is another one from the second call on
        reusing = ReusingEncoder(model.encoder, 9)
        first, second = calls(model, [2, 5], captions())
        reusing(*first)
        patches = second[0].clone()
        if other is not None:
            patches[torch.arange(2), ORDER[:, other]] += 1
        hidden.append(reusing(patches, *second[1:]))
    assert torch.equal(hidden[0], hidden[1])
    assert not torch.allclose(hidden[0], hidden[2])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("order", ["random", "confidence"])
def test_generates(order, options):
    """Reuse moves the latents, always in the same way; the end of guidance, another batch, is no obstacle."""
    model = build(depth=2, **options)
    config = DecodingConfig(num_iterations=6, num_diffusion_steps=8, confidence_steps=2, order=order)

    def run(reuse):
        return generate(model, captions(), 12, 2, dataclasses.replace(config, encoder_reuse=reuse), rng())

    exact, reused = run(1), run(3)
    assert torch.isfinite(reused).all()
    assert not torch.allclose(exact, reused)
    assert torch.equal(reused, run(3))


def test_impossible_reuse_is_refused():
    for wrong in ({"encoder_reuse": 0}, {"encoder_reuse": 65}, {"encoder_reuse": 2, "engine": "reference"}):
        with pytest.raises(ValueError, match="encoder_reuse"):
            check_decoding(DecodingConfig(**wrong), 1000)
