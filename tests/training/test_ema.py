import pytest
import torch
from torch import nn

from impact_pl.training.optim import ExponentialMovingAverage


@pytest.mark.parametrize("warmup", [True, False])
def test_average_has_its_closed_form(warmup):
    """decay d_n = min(decay, (1 + n) / (10 + n)); average after N steps = sum_n w_n (1 - d_n) prod_{m > n} d_m + ..."""
    model = nn.Linear(3, 2)
    start = model.weight.detach().clone()
    ema = ExponentialMovingAverage(model, 0.3, warmup)
    values = [torch.randn(2, 3) for _ in range(5)]
    for step, value in enumerate(values):
        with torch.no_grad():
            model.weight.copy_(value)
        ema.update(model, step)
    decays = [min(0.3, (1 + n) / (10 + n)) if warmup else 0.3 for n in range(5)]
    assert decays[0] == (0.1 if warmup else 0.3)
    assert decays[-1] == 0.3
    expected = start.double() * torch.tensor(decays, dtype=torch.double).prod()
    for n, value in enumerate(values):
        expected += value * (1 - decays[n]) * torch.tensor(decays[n + 1 :], dtype=torch.double).prod()
    assert torch.allclose(ema.model.weight.double(), expected, atol=1e-6)


def test_average_does_not_train_and_copies_buffers():
    model = nn.BatchNorm1d(2)
    ema = ExponentialMovingAverage(model, 0.9)
    ema.train()
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.parameters())
    model(torch.randn(8, 2))
    ema.update(model, 0)
    assert torch.equal(ema.model.running_mean, model.running_mean)


def test_decay_of_one_would_never_move():
    with pytest.raises(ValueError, match="ema_decay"):
        ExponentialMovingAverage(nn.Linear(1, 1), 1.0)
