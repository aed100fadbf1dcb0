"""The rate of matrix products."""

import torch

from lab.benchmark.machine import product_rates


def test_products_have_a_rate_in_every_precision():
    rates = product_rates(torch.device("cpu"), repeats=1, largest=64)
    assert rates.keys() == {"32-true", "bf16"}
    assert min(rates.values()) > 0
