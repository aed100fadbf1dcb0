"""Decoding with known patches: they come out as they went in, and only the others are drawn and paid for."""

import dataclasses

import pytest
import torch

from impact_pl.config import DecodingConfig
from impact_pl.inference.engine import Engine, build_engine
from impact_pl.inference.generate import fill, generate
from impact_pl.models.heads import HEADS
from impact_pl.sampling.decoding import Known, counts_left
from impact_pl.sampling.schedules import PROGRESS, REVEALS, masked_counts
from tests.helpers.models import CLOSE, QUICK, Text, build, captions, latents, model_with, rng

ORDERS = {"diffusion": ["random", "confidence"], "discrete": ["random", "confidence"]}
CASES = [(head, order) for head in HEADS for order in ORDERS.get(head, ["random"])]


def known(first=4, stop=8, num_patches=12, batch=2, later=0) -> Known:
    """Everything but a span; the last ``later`` patches are for another time."""
    drawn = torch.zeros(batch, num_patches, dtype=torch.bool)
    drawn[:, first:stop] = True
    mask = ~drawn
    mask[:, num_patches - later :] = False
    return Known(mask, drawn)


@pytest.mark.parametrize("engine", ["reference", "fused"])
@pytest.mark.parametrize(("head", "order"), CASES)
def test_known_patches_are_returned_bit_by_bit(head, order, engine):
    model, start = model_with(head), latents()
    patches, given = model.patchify(start), known()
    decoding = dataclasses.replace(QUICK, order=order, engine=engine, guidance_scale=3.0)
    result = fill(model, captions(), patches, given, decoding, rng())
    assert torch.equal(result[given.mask], patches[given.mask])
    assert not torch.equal(result[given.drawn], patches[given.drawn])
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("options", [{"reveal": "adaptive"}, {"encoder_reuse": 2}, {"reveal": "linear"}])
def test_engines_agree_whatever_is_known(options):
    model, patches = build(depth=2), model_patches()
    results = [
        fill(model, captions(), patches, known(), dataclasses.replace(QUICK, engine=engine, **options), rng())
        for engine in ("fused", "reference")
        if engine == "fused" or "encoder_reuse" not in options
    ]
    for result in results:
        torch.testing.assert_close(result, results[0], rtol=0, atol=CLOSE * results[0].abs().max().item())
        assert torch.equal(result[known().mask], patches[known().mask])


def model_patches():
    return build().patchify(latents())


def test_unknown_content_is_not_read():
    model, patches, given = build(), model_patches(), known(later=2)
    other = torch.where(given.mask[..., None], patches, 100.0)
    results = [fill(model, captions(), x, given, QUICK, rng()) for x in (patches, other)]
    assert torch.equal(results[0][given.drawn], results[1][given.drawn])


def test_known_content_is_read():
    model, patches, given = build(), model_patches(), known()
    results = [fill(model, captions(), x, given, QUICK, rng()) for x in (patches, patches + 1)]
    assert not torch.allclose(results[0][given.drawn], results[1][given.drawn])


def test_with_nothing_known_it_is_generation():
    model = build()
    want = generate(model, captions(), 12, 2, QUICK, rng())
    blank = torch.zeros(2, 12, 4)
    for given in (None, Known.nothing(2, 12)):
        result = fill(model, captions(), blank, given, QUICK, rng())
        assert torch.equal(model.unwhiten(model.unpatchify(result)), want)


def test_with_everything_known_nothing_is_computed():
    model, patches = build(), model_patches()
    everything = Known(torch.ones(2, 12, dtype=torch.bool), torch.zeros(2, 12, dtype=torch.bool))
    assert torch.equal(fill(model, captions(), patches, everything, QUICK, rng(), engine=Engine(None, None)), patches)


def test_the_cost_falls_with_what_is_left_to_draw():
    model, decoding = build(), DecodingConfig(num_iterations=12, num_diffusion_steps=2)
    engine, calls = build_engine(model, decoding), []

    def encode(patches, mask, cond, positions, num_kept):
        calls.append(len(patches) * positions.shape[1])
        return engine.encode(patches, mask, cond, positions, num_kept)

    costs = []
    for length in (12, 6, 2):
        calls.clear()
        watching = dataclasses.replace(engine, encode=encode)
        given = known(0, length)
        fill(model, captions(), model_patches(), given, decoding, rng(), engine=watching)
        assert len(calls) <= len(counts_left(decoding, given))
        costs.append((len(calls), sum(calls)))
    assert costs == sorted(costs, reverse=True)
    assert costs[0][0] > costs[1][0] > costs[2][0]


@pytest.mark.parametrize("reveal", REVEALS)
def test_the_schedule_starts_at_the_share_that_is_unknown(reveal):
    for masked in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert REVEALS[reveal](PROGRESS[reveal](masked)) == pytest.approx(masked, abs=1e-12)
    assert masked_counts(64, 16, reveal, 64) == masked_counts(64, 16, reveal)
    lengths = []
    for unknown in (64, 32, 13, 1, 0):
        counts = masked_counts(64, 16, reveal, unknown)
        assert counts == sorted(counts, reverse=True)
        assert all(count < unknown for count in counts)
        assert not unknown or counts[-1] == 0
        lengths.append(len(counts))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] == 0


def test_a_clip_does_not_depend_on_its_neighbours():
    model, patches, given = build(), model_patches(), known()
    own = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    both = fill(model, captions(), patches, given, QUICK, own)
    text = captions()
    second = Text({name: feature[1:] for name, feature in text.features.items()}, text.mask[1:])
    alone = fill(model, second, patches[1:], given.clip(1), QUICK, [torch.Generator().manual_seed(2)])
    torch.testing.assert_close(alone, both[1:], rtol=0, atol=1e-4)


def test_a_negative_caption_takes_the_null_conditions_place():
    model = build()
    runs = [generate(model, captions(), 12, 2, QUICK, rng(), negative=n) for n in (None, captions(seed=5), captions())]
    assert not torch.allclose(runs[0], runs[1])
    unguided = generate(model, captions(), 12, 2, dataclasses.replace(QUICK, guidance_scale=1.0), rng())
    torch.testing.assert_close(runs[2], unguided, rtol=0, atol=1e-3)  # away from the caption itself: no guidance


def test_rows_have_the_same_number_of_known_patches():
    drawn = torch.tensor([[True, False], [True, True]])
    with pytest.raises(AssertionError, match="rows differ"):
        Known(~drawn, drawn)
