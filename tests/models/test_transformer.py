"""The blocks' own dropout has the distribution of PyTorch's."""

import pytest
import torch

from impact_pl.models.transformer import Dropout


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_every_number_is_dropped_with_probability_p_by_itself(p, dtype):
    ones = torch.ones(250, 4003, dtype=dtype)
    y = Dropout(p)(ones)
    assert y.dtype == dtype
    kept = (y != 0).double()
    torch.testing.assert_close(y[y != 0].double().unique(), torch.tensor([1 / (1 - p)]).double(), rtol=4e-3, atol=0)
    spread = (p * (1 - p)) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 5 * spread / kept.numel() ** 0.5
    flat = (kept.flatten() - (1 - p)) / spread
    for distance in (1, 2, 3, 4, 8, 4003):  # of numbers that share a draw, and others
        assert abs((flat[:-distance] * flat[distance:]).mean()) < 5 / kept.numel() ** 0.5


def test_what_is_dropped_has_no_gradient_and_the_rest_the_same_factor():
    x = torch.randn(7, 3).t().requires_grad_()  # not contiguous, no multiple of four
    y = Dropout(0.4)(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert 0 < (y == 0).sum() < 21
    assert torch.equal(y, x * x.grad)


def test_one_seed_drops_the_same():
    dropout, x = Dropout(0.1), torch.ones(1000)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


def test_nothing_is_dropped_in_evaluation_or_without_p():
    x = torch.randn(50)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert not Dropout(1.0)(x).any()
