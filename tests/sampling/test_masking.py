import math
from itertools import pairwise

import pytest
import torch

from impact_pl.config import MaskRatioConfig
from impact_pl.sampling.masking import draw_mask, draw_mask_ratio, mask_from_order, num_masked, random_order
from impact_pl.sampling.schedules import REVEALS, masked_counts

SPANS = MaskRatioConfig(span_share=0.25, span_low=0.1, span_high=0.5)


def test_masks_nest_and_sum():
    order = random_order(3, 20, torch.Generator().manual_seed(0), "cpu")
    assert torch.equal(order.sort(dim=1).values, torch.arange(20).expand(3, -1))
    assert not torch.equal(order[0], order[1])
    larger = mask_from_order(order, 20)
    for count in range(19, -1, -1):
        mask = mask_from_order(order, count)
        assert (mask.sum(dim=1) == count).all()
        assert not (mask & ~larger).any()
        larger = mask


@pytest.mark.parametrize(("num_patches", "num_iterations"), [(256, 64), (256, 16), (16, 5), (4, 4), (1, 1), (7, 1)])
def test_every_iteration_reveals_along_the_cosine(num_patches, num_iterations):
    counts = masked_counts(num_patches, num_iterations)
    revealed = [before - after for before, after in zip([num_patches, *counts], counts, strict=False)]
    assert len(counts) == num_iterations
    assert min(revealed) >= 1
    assert sum(revealed) == num_patches
    for t, left in enumerate(counts[:-1], start=1):
        cosine = math.floor(num_patches * math.cos(math.pi / 2 * t / num_iterations))
        assert left == cosine or left == min(num_patches - t, max(cosine, 1)), t  # one at a time where it is flat


@pytest.mark.parametrize("reveal", REVEALS)
def test_reveal_schedules(reveal):
    assert REVEALS[reveal](0) == 1
    assert REVEALS[reveal](1) == pytest.approx(0, abs=1e-12)
    counts = [256, *masked_counts(256, 16, reveal)]
    revealed = [before - after for before, after in pairwise(counts)]
    assert sum(revealed) == 256
    assert min(revealed) >= 1
    rises = {"cosine": revealed[0] < revealed[-1], "linear": set(revealed) == {16}, "sqrt": revealed[0] > revealed[-1]}
    assert rises[reveal]


def test_more_iterations_than_patches():
    counts = masked_counts(3, 10)
    assert counts[-1] == 0
    assert sorted(counts, reverse=True) == counts
    assert len(counts) == 10


@pytest.mark.parametrize(("num_patches", "num_iterations"), [(0, 1), (4, 0)])
def test_nothing_to_decode(num_patches, num_iterations):
    with pytest.raises(ValueError, match="at least 1"):
        masked_counts(num_patches, num_iterations)


def test_truncated_normal_has_its_closed_form_moments():
    low, std = 0.7, 0.25
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([draw_mask_ratio(MaskRatioConfig(low=low, std=std), generator) for _ in range(4000)])
    assert low <= draws.min()
    assert draws.max() <= 1
    a = (low - 1) / std
    density = lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    mass = 0.5 - 0.5 * (1 + math.erf(a / math.sqrt(2)))
    mean = 1 + std * (density(a) - density(0)) / mass
    variance = std**2 * (1 + a * density(a) / mass - ((density(a) - density(0)) / mass) ** 2)
    assert draws.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(variance / 4000))
    assert draws.var().item() == pytest.approx(variance, rel=0.1)


def test_fixed_ratio_and_counts():
    assert draw_mask_ratio(MaskRatioConfig(kind="fixed", value=0.7), torch.Generator()) == 0.7
    assert num_masked(256, 0.7) == 180  # ceil(179.2)
    assert num_masked(90, 0.7) == 63
    assert num_masked(100, 0.55) == 55  # 55.00000000000001 in floating point
    assert num_masked(5, 0.0) == 1
    assert num_masked(5, 1.0) == 5


@pytest.mark.parametrize(
    "config",
    [
        MaskRatioConfig(kind="uniform"),
        MaskRatioConfig(kind="fixed", value=0.0),
        MaskRatioConfig(kind="fixed", value=1.5),
        MaskRatioConfig(low=1.0),
        MaskRatioConfig(std=0.0),
    ],
)
def test_impossible_ratios(config):
    with pytest.raises(ValueError, match="mask_ratio"):
        draw_mask_ratio(config, torch.Generator())


@pytest.mark.parametrize("width", [1, 4])
def test_a_span_is_one_stretch_of_time_at_its_own_place_per_clip(width):
    always = MaskRatioConfig(span_share=1.0, span_low=0.1, span_high=0.5)
    generator, lengths, starts = torch.Generator().manual_seed(0), set(), set()
    for _ in range(200):
        order, count = draw_mask(always, 3, 20, width, generator, "cpu")
        assert torch.equal(order.sort(dim=1).values, torch.arange(20 * width).expand(3, -1))
        frames = mask_from_order(order, count).view(3, 20, width)
        assert (frames.all(dim=2) == frames.any(dim=2)).all()  # whole frames
        masked = frames[..., 0]
        edges = masked[:, 1:].int() - masked[:, :-1].int()
        assert ((edges == 1).sum(dim=1) + masked[:, 0] == 1).all()  # one stretch
        lengths.add(count // width)
        starts.update(masked.int().argmax(dim=1).tolist())
    assert lengths == set(range(3, 11))  # ceil of 10 to 50 % of 20 frames
    assert min(starts) == 0
    assert max(starts) > 14
    assert len(set(masked.int().argmax(dim=1).tolist())) > 1


def test_spans_are_masked_in_a_share_of_the_batches():
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([draw_mask(SPANS, 1, 100, 1, generator, "cpu")[1] for _ in range(2000)])
    assert (counts <= 50).double().mean().item() == pytest.approx(0.25, abs=0.03)  # others mask at least .7


def test_without_spans_the_draws_are_those_of_before():
    order, count = draw_mask(MaskRatioConfig(), 2, 5, 2, torch.Generator().manual_seed(3), "cpu")
    again = torch.Generator().manual_seed(3)
    assert count == num_masked(10, draw_mask_ratio(MaskRatioConfig(), again))
    assert torch.equal(order, random_order(2, 10, again, "cpu"))


def test_impossible_spans():
    config = MaskRatioConfig(span_share=1.0, span_low=0.6, span_high=0.5)
    with pytest.raises(ValueError, match=r"span_low = 0.6, span_high = 0.5"):
        draw_mask(config, 1, 5, 1, torch.Generator(), "cpu")
