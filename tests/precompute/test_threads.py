"""Threads that read and encode ahead: one core each, and never too far ahead."""

import time
from concurrent.futures import ThreadPoolExecutor

import torch

from impact_pl.precompute.precompute import ahead, one_thread_each


def test_threads_that_load_compute_with_one_core():
    with one_thread_each(), ThreadPoolExecutor(2) as pool:
        assert set(pool.map(lambda _: torch.get_num_threads(), range(8))) == {1}


def test_ahead_keeps_the_order_and_its_distance():
    taken = []

    def items():
        for i in range(20):
            taken.append(i)
            yield i

    with ThreadPoolExecutor(3) as pool:
        results = ahead(pool, lambda i: (time.sleep(0.002 * (i % 3)), i)[1], items(), 4)
        assert [next(results) for _ in range(5)] == list(range(5))
        assert len(taken) == 9
        assert list(results) == list(range(5, 20))
