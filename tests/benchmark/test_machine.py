"""What the machine's rates are made of."""

import torch

from lab.benchmark.machine import Rates, as_fast_as_larger, captured


def test_a_small_set_is_read_as_fast_as_any_larger_one():
    """On a GPU a short read measures its launch; the largest sets do not."""
    measured = {4: 1.0, 16: 5.0, 64: 4.0, 512: 3.0}
    assert as_fast_as_larger(measured) == {4: 5.0, 16: 5.0, 64: 4.0, 512: 3.0}
    assert Rates({}, {}, as_fast_as_larger(measured), 0.0).bandwidth_of(4) == 5.0


def test_a_cpu_reads_without_graphs():
    def work() -> None:
        pass

    assert captured(work, torch.device("cpu")) is work
