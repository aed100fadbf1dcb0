"""CUDA graphs: captured, replayed, and the same latents as without. What needs no device is tested on any machine."""

import dataclasses
import functools
import gc
import weakref
from collections import OrderedDict

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from impact_pl.inference.cuda_graphs import Graphed, bucket, key_of, num_bytes, remember
from impact_pl.inference.diffusion_loop import in_buckets
from impact_pl.inference.engine import build_engine, fast_head
from impact_pl.inference.generate import generate
from impact_pl.models.heads.base import Sampling
from tests.helpers.models import CLOSE, QUICK, assert_same, build, captions, rng


def test_buckets():
    assert [bucket(rows) for rows in (1, 2, 3, 8, 9, 200)] == [1, 2, 4, 8, 16, 256]


def test_the_least_recent_is_forgotten():
    entries = OrderedDict()
    for key in "abcadb":  # c is the oldest when d comes, a when b comes again
        remember(entries, key, key.upper(), 3)
    assert list(entries.items()) == [("a", "A"), ("d", "D"), ("b", "B")]


def test_a_round_of_too_many_keeps_none_until_it_comes_again():
    entries = OrderedDict()
    for key in [1, 2, 3] * 4:
        assert key not in entries
        remember(entries, key, None, 2)


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 7])
def test_filled_up_rows_change_nothing(steps):
    loop = fast_head(build(head_depth=2).head, torch.float32)
    hidden, null_hidden = torch.randn(2, 1, 5, 32, generator=rng())
    draw = lambda: loop.sample(hidden, null_hidden, Sampling(3.0, steps, min_alpha_bar=1e-3), rng())  # noqa: E731
    alone = draw()
    loop.solve = functools.partial(in_buckets, loop._solve)
    assert_same(draw(), alone)


def test_an_engine_is_freed_with_its_last_reference():
    """On CUDA the graphs and their memory go with it; a cycle would wait for the garbage collector."""
    gc.disable()
    try:
        engine = build_engine(build(), QUICK)
        gone = weakref.ref(engine.head)
        del engine
        assert gone() is None
    finally:
        gc.enable()


def test_a_graph_belongs_to_its_device_shapes_dtypes_and_values():
    with FakeTensorMode():
        x = torch.empty(2, 3, device="cuda:0")
        same = torch.empty(2, 3, device="cuda:0")
        others = [
            (torch.empty(2, 3, device="cuda:1"), 1),
            (torch.empty(3, 2, device="cuda:0"), 1),
            (torch.empty(2, 3, device="cuda:0", dtype=torch.bfloat16), 1),
            (x, 2),
        ]
        assert key_of((x, 1)) == key_of((same, 1))
        assert len({key_of((x, 1)), *map(key_of, others)}) == 5


def test_the_least_recent_graphs_go_when_their_bytes_are_too_many():
    graphed = Graphed(torch.clone, max_bytes=1000)
    for key in range(4):  # of 400 bytes each
        graph = (None, [torch.zeros(50)], torch.zeros(50))
        graphed._make_room(num_bytes(graph))
        remember(graphed._graphs, (key,), graph, 512)
    assert list(graphed._graphs) == [(2,), (3,)]


@pytest.mark.gpu
def test_a_function_is_captured_at_the_second_call_and_replayed():
    calls = []

    def double(x, scale):
        calls.append(x.shape)
        return x * scale

    graphed = Graphed(double)
    for i in range(5):
        assert torch.equal(
            graphed(torch.full((3,), float(i), device="cuda"), 2), torch.full((3,), 2.0 * i, device="cuda")
        )
    assert len(calls) == 3  # eager, side stream, capture
    assert torch.equal(graphed(torch.ones(3, device="cuda"), 3), torch.full((3,), 3.0, device="cuda"))


@pytest.mark.gpu
def test_graphs_are_dropped_and_captured_anew():
    graphed = Graphed(lambda x: 2 * x, limit=2)
    for rows in (1, 1, 2, 2, 3, 3, 1, 1, 3, 2):
        x = torch.randn(rows, device="cuda")
        assert torch.equal(graphed(x), 2 * x)
    assert len(graphed._graphs) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("padding", [-1, 1])
@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_same_latents_on_a_gpu(prediction, padding):
    model = build(depth=2, head_depth=2, prediction=prediction, text_padding=padding).to("cuda")
    text = captions()
    text.mask[1, 2:] = False  # another length
    text.features, text.mask = {k: v.cuda() for k, v in text.features.items()}, text.mask.cuda()
    decoding = dataclasses.replace(QUICK, num_iterations=5, num_diffusion_steps=8)
    generator = lambda: torch.Generator("cuda").manual_seed(0)  # noqa: E731
    want = generate(model, text, 12, 2, dataclasses.replace(decoding, engine="reference"), generator())
    engine = build_engine(model, decoding)
    for _ in range(3):  # eager, captured, replayed
        got = generate(model, text, 12, 2, decoding, generator(), engine=engine)
        torch.testing.assert_close(got, want, rtol=0, atol=CLOSE * want.abs().max().item())
    bf16 = dataclasses.replace(decoding, precision="bf16")
    assert torch.isfinite(generate(model, text, 12, 2, bf16, generator())).all()
