"""Text positions: those that are not there are not computed, and nobody attends to them where they are."""

import pytest
import torch
import torch.nn.functional as F

from impact_pl.inference.fast_linear import attention_by_products, inference_copy
from impact_pl.inference.generate import generate
from impact_pl.inference.reuse import ReusingEncoder
from impact_pl.models import impact
from impact_pl.models.condition import Condition, concatenated, packed
from tests.helpers.models import QUICK, Text, assert_same, both, build, latents, rng

FEATURES = {"clap": (1, 5), "words": (20, 6)}
LENGTHS = [3, 0, 11]  # words of three captions, one of which has none


def captions(lengths=LENGTHS, seed=0) -> Text:
    drawn = {name: torch.randn(9, *shape, generator=rng(seed))[: len(lengths)] for name, shape in FEATURES.items()}
    words = torch.arange(20) < torch.tensor(lengths)[:, None]
    return Text(drawn, torch.cat([words.any(dim=1, keepdim=True), words], dim=1))


def padded(text_padding=2, **config):
    return build(FEATURES, text_padding=text_padding, depth=2, **config)


@pytest.mark.parametrize("padding", [1, 2, 7, 21, 99, -1])
def test_so_many_positions_are_there(padding):
    """The caption's own and the first that it leaves empty, of all features together."""
    condition = padded(padding).embed_text(captions(), 3)
    if padding not in range(21):  # all that the model has
        assert condition.text_mask is None
        return
    assert condition.text_mask.sum(dim=1).tolist() == [min(n, 21) for n in (4 + padding, padding, 12 + padding)]
    assert (condition.text_mask >= captions().mask).all()
    last = condition.text_mask.int().argmin(dim=1)  # the first that is not there
    assert all(not row[i:].any() for row, i in zip(condition.text_mask, last, strict=True) if i)


def test_packing_by_hand():
    mask = torch.tensor([[True, False, True] + [False] * 18, [False] * 12 + [True] * 9])
    states = torch.arange(42.0).view(2, 21, 1)
    cond = Condition(states, text_mask=mask)
    for multiple, length in ((1, 9), (4, 12), (16, 16), (32, 21)):
        short = packed(cond, multiple)
        assert short.states.shape == (2, length, 1)
        assert short.text_mask.sum(dim=1).tolist() == [2, 9]
        assert short.slots[0, :2].tolist() == [0, 2]
        assert short.slots[1, :9].tolist() == list(range(12, 21))
        assert torch.equal(short.states[..., 0], states[..., 0].gather(1, short.slots))
    assert packed(Condition(states[1:], text_mask=mask[1:])).text_mask is None  # something everywhere
    assert packed(Condition(states)) == Condition(states)
    assert packed(None) is None


@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_same_latents_packed_or_not(order, guidance_scale):
    """The reference engine computes all positions, and attention leaves out those that are masked."""
    assert_same(*both(padded(), captions(), 12, 3, order=order, guidance_scale=guidance_scale))


@torch.no_grad()
def test_same_hidden_vectors_packed_or_not():
    model = padded(local_kernel=3)
    text = captions()
    condition, null = model.embed_text(text, 3), model.embed_text(None, 3)
    whole = concatenated(condition, null)
    short = packed(whole, 8)
    assert (whole.states.shape[1], short.states.shape[1]) == (21, 16)
    patches = torch.randn(6, 12, 4, generator=rng())
    mask = torch.arange(12).expand(6, 12) >= 5
    asked = torch.arange(5, 9).expand(6, 4)
    want = model.encoder(patches, mask, whole)[:, 5:9]
    for encoder in (model.encoder, ReusingEncoder(model.encoder, 1)):
        torch.testing.assert_close(encoder(patches, mask, short, asked, 5), want)
    fast = inference_copy(model.encoder, torch.float32)
    torch.testing.assert_close(fast(patches, mask, short, asked), want, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_reuse_is_the_same_packed_or_not():
    """Call for call, those that reuse as well; whatever stands where there is nothing."""
    model = padded()
    cond = model.embed_text(captions(), 3)
    noisy = cond._replace(states=cond.states + 100 * ~cond.text_mask[..., None])
    encoders = [ReusingEncoder(model.encoder, 9) for _ in range(2)]
    patches = torch.randn(3, 12, 4, generator=rng())
    for kept in (3, 5, 6, 9):
        mask, asked = torch.arange(12).expand(3, 12) >= kept, torch.arange(kept, kept + 2).expand(3, 2)
        whole, short = (
            encoder(patches, mask, each, asked, kept)
            for encoder, each in zip(encoders, (noisy, packed(cond)), strict=True)
        )
        torch.testing.assert_close(short, whole)
    assert not torch.allclose(whole, model.encoder(patches, mask, cond, asked))  # it was reused


@torch.no_grad()
def test_a_clip_is_the_same_beside_any_other():
    """Whose caption may be longer; and other features at masked positions make no difference."""
    model = padded()
    hidden = []
    for lengths in ([3], [3, 20], [3, 0]):
        text = captions(lengths)
        text.features["words"][0, 3:] = 1e3 * len(lengths)
        batch = len(lengths)
        patches, mask = torch.ones(batch, 12, 4), torch.arange(12).expand(batch, 12) >= 4
        hidden.append(model.encoder(patches, mask, packed(model.embed_text(text, batch)))[0])
    for other in hidden[1:]:
        torch.testing.assert_close(other, hidden[0])


def test_training_computes_no_more_than_it_needs(monkeypatch):
    """And learns the same as if it did."""
    model, text, seen = padded(), captions([3, 5, 2]), []
    first = model.encoder.enc1.blocks[0]
    first.register_forward_pre_hook(lambda block, args: seen.append(args[0].shape[1]))
    ours = model.loss(latents(3), text, rng()).per_position
    monkeypatch.setattr(impact, "packed", lambda condition: condition)
    torch.testing.assert_close(ours, model.loss(latents(3), text, rng()).per_position, rtol=1e-4, atol=1e-4)
    assert seen[1] - seen[0] == 21 - (1 + 5 + 2)  # clap, the longest caption, padding


def test_learned_padding_is_attended_to():
    model = build(FEATURES, depth=2)
    text = captions()
    want = generate(model, text, 12, 3, QUICK, rng())
    with torch.no_grad():
        model.null_cond[:, 15] += 1  # where no caption here has a word
    assert not torch.allclose(generate(model, text, 12, 3, QUICK, rng()), want)


@pytest.mark.parametrize("shape", [(3, 2, 5, 8), (3, 2, 1, 8)])
def test_attention_by_products_with_a_mask(shape):
    q, k, v = torch.randn(shape), torch.randn(3, 2, 7, 8), torch.randn(3, 2, 7, 8)
    key_mask = (torch.arange(7) < torch.tensor([2, 7, 1])[:, None])[:, None, None]
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
    torch.testing.assert_close(attention_by_products(q, k, v, attn_mask=key_mask), want)


def test_bf16_is_near():
    fused, reference = both(padded(), captions(), 12, 3, num_iterations=1, guidance_scale=2.0, precision="bf16")
    full, _ = both(padded(), captions(), 12, 3, num_iterations=1, guidance_scale=2.0)
    for result in (fused, reference):
        assert 1e-6 < ((result - full).norm() / full.norm()) < 0.05


@pytest.mark.parametrize("padding", [0, -2])
def test_impossible_padding_is_refused(padding):
    """Without any the null condition would have nothing, and nothing could be attended to where all is masked."""
    with pytest.raises(ValueError, match=f"text_padding = {padding}: choose 1 or more, or -1 for all"):
        padded(padding)
