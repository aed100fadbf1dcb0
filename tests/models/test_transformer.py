"""The blocks' own dropout has the distribution of PyTorch's."""

import pytest
import torch

from impact_pl.models.transformer import QuickDropout


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_every_number_is_dropped_with_probability_p_by_itself(p, dtype):
    ones = torch.ones(250, 4003, dtype=dtype)
    y = QuickDropout(p)(ones)
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
    y = QuickDropout(0.4)(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert 0 < (y == 0).sum() < 21
    assert torch.equal(y, x * x.grad)


def test_one_seed_drops_the_same():
    dropout, x = QuickDropout(0.1), torch.ones(1000)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_factor_is_pytorchs(dtype):
    x = torch.ones(1000, dtype=dtype)
    assert torch.equal(QuickDropout(0.5)(x).unique(), torch.nn.Dropout(0.5)(x).unique())
    assert QuickDropout(0.1)(x).max().item() == pytest.approx(torch.nn.Dropout(0.1)(x).max().item(), rel=1e-5)


def test_where_it_is_not_quicker_it_is_pytorchs(monkeypatch):
    """Compiled, on another device, in place, and for probabilities that 16 bits do not tell from 0 and 1."""

    def random_(*arguments):
        raise AssertionError("drawn quickly")

    monkeypatch.setattr(torch.Tensor, "random_", random_)
    x = torch.ones(1000)
    compiled = torch.compile(QuickDropout(0.5), backend="eager", fullgraph=True)
    assert 300 < (compiled(x) == 0).sum() < 700
    assert QuickDropout(0.5)(x.to("meta")).is_meta
    assert QuickDropout(0.5, inplace=True)(x) is x
    torch.testing.assert_close(QuickDropout(1e-7)(torch.ones(10)), torch.ones(10))
    assert not QuickDropout(1 - 1e-7)(torch.ones(10)).any()
    with pytest.raises(AssertionError, match="drawn quickly"):
        QuickDropout(0.5)(x)


def test_nothing_is_dropped_in_evaluation_or_without_p():
    x = torch.randn(50)
    assert torch.equal(QuickDropout(0.5).eval()(x), x)
    assert torch.equal(QuickDropout(0.0)(x), x)
    assert not QuickDropout(1.0)(x).any()
