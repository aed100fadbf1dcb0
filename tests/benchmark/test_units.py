"""What is put together from units is what a generation is made of."""

import dataclasses
import itertools

import pytest
import torch

from impact_pl.config import DecodingConfig, ModelConfig
from impact_pl.inference.reuse import ReusingEncoder
from impact_pl.models.impact import Impact
from lab.benchmark import latency, timing
from lab.benchmark.machine import Rates
from lab.benchmark.subject import named
from lab.benchmark.timing import count_launches, in_turns
from lab.benchmark.units import Runner, Times, Unit, Way, loop_lengths, spread, units_of
from lab.benchmark.work import iterations_of

CPU = torch.device("cpu")
RATES = Rates({"32-true": 1e11, "bf16": 2e11}, {}, {1 << 20: 1e10}, 1e-6)
DECODING = DecodingConfig(num_iterations=3, num_diffusion_steps=4)
WAYS = [Way(engine, dataclasses.replace(DECODING, engine=engine)) for engine in ("reference", "fused")]


@pytest.fixture(scope="module")
def subject():
    config = ModelConfig(dim=16, depth=1, num_heads=2, head_width=16, head_depth=1, max_patches=16)
    return named("little", config, duration=0.64, device=CPU, parts=False)


def test_every_unit_of_every_plan_can_be_read_off(subject):
    runner = Runner(subject, WAYS[1], 1, 16)
    plans = [iterations_of(dataclasses.replace(DECODING, num_iterations=count), 16) for count in (2, 8)]
    units = units_of(runner, plans, points=3)
    assert {unit.guided for unit in units} == {True, False}
    times = Times({unit: float(unit.patches + 1) * (2 if unit.guided else 1) for unit in units})
    for it in itertools.chain(*plans):
        expected = it.kept + 1
        assert times.encoder(it.kept, False) == pytest.approx(expected)
        assert times.encoder(it.kept, True) == pytest.approx(2 * expected)
        assert times.head(it.revealed, False, 4) == pytest.approx(it.revealed + 1)
    parts = times.parts(runner, plans[0])
    assert parts["encoder"] == pytest.approx(sum(it.kept + 1 for it in plans[0]))
    assert parts["encoder, guidance"] == pytest.approx(plans[0][0].kept + 1)  # the last iteration has none


@pytest.mark.parametrize("patch_size", [1, 2, 3])
def test_a_named_model_is_long_enough(patch_size):
    """On the built-in codec's latents, which are narrower than such patches."""
    config = ModelConfig(
        dim=16, depth=1, num_heads=2, head_width=16, head_depth=1, max_patches=2, patch_size=patch_size
    )
    found = named("little", config, duration=0.65, device=CPU, parts=False)
    frames = found.num_frames(0.65)
    assert frames % patch_size == 0
    assert found.num_patches(frames) == found.model.spec.model.max_patches == -(-17 // patch_size)


def test_long_loops_are_continued():
    assert loop_lengths(10, [100, 100]) == (100,)
    assert loop_lengths(10, [50, 5, 20]) == (5, 50)
    assert loop_lengths(10_000, [100]) == (10, 20)
    times = Times({Unit("head", 3, False, 10): 1.5, Unit("head", 3, False, 20): 2.5})
    assert times.head(3, False, 100) == pytest.approx(10.5)  # half a second once, a tenth a step


def test_spread_keeps_both_ends():
    assert spread([5, 1, 1, 3], 4) == [1, 3, 5]
    assert spread(range(100), 3)[::2] == [0, 99]
    assert len(spread(range(100), 5)) == 5


def test_the_plain_engine_guides_always(subject):
    reference, fused = (Runner(subject, way, 1, 16) for way in WAYS)
    last = iterations_of(DECODING, 16)[-1]
    assert not last.guided
    assert (reference.guides(last), fused.guides(last)) == (True, False)


def test_rows_are_consistent(subject):
    rows = latency.measure(subject, WAYS, 2, [2, 3], 0.64, RATES, points=2, repeats=1, whole=True)
    assert [(row["way"], row["iterations"]) for row in rows] == [(w.name, t) for t in (2, 3) for w in WAYS]
    for row in rows:
        parts = row["parts"]
        assert list(parts) == ["encoder", "encoder, guidance", "head", "head, guidance", "rest"]
        assert row["units_seconds"] == pytest.approx(sum(part["seconds"] for part in parts.values()))
        assert row["seconds"] == row["generation_seconds"] > 0
        assert row["bound_seconds"] == pytest.approx(sum(part["bound_seconds"] for part in parts.values()))
        for name, part in parts.items():
            if name != "rest":
                assert part["flops"] > 0
                least = part["bound_seconds"]  # 0: guidance reads no more weights, where reading them is the limit
                assert part["ratio"] == (pytest.approx(part["seconds"] / least) if least > 0 else None)
            if name in ("encoder", "head"):
                assert part["bound_seconds"] >= max(part["compute_seconds"], part["memory_seconds"]) - 1e-12
    reference, fused = rows[:2]
    assert reference["parts"]["head"]["launches"] > fused["parts"]["head"]["launches"] > 0
    for key in ("flops", "bound_seconds", "limited_by"):  # the algorithm's, not the program's
        assert reference["parts"]["head"][key] == fused["parts"]["head"][key]


def test_guidance_starts_no_fewer_operations(subject):
    """What a first call makes once, a schedule, is not counted."""
    for way in WAYS:
        counts = Runner(subject, way, 1, 16).launches
        for part in ("encoder", "head"):
            alone, both = (once + 10 * step for once, step in (counts[part, guided] for guided in (False, True)))
            assert both >= alone > 0


def test_launches_are_no_part_of_the_bound(subject):
    """However slowly a machine starts operations, and however many of them a way has."""
    slow = dataclasses.replace(RATES, launch=1.0)
    bounds, launches = set(), set()
    for rates in (RATES, slow):
        for row in latency.measure(subject, WAYS, 1, [2], 0.64, rates, points=2, repeats=1):
            bounds.add(row["bound_seconds"])
            launches.add(sum(part["launch_seconds"] for part in row["parts"].values()))
    assert len(bounds) == 1
    assert len(launches) == 4


def test_ways_take_turns_after_a_warm_up():
    calls = []
    seconds = in_turns({name: (lambda name=name: calls.append(name)) for name in "ab"}, 2, CPU)
    assert calls == ["a", "b"] * 3
    assert all(value >= 0 for value in seconds.values())


def test_a_gpu_is_measured_after_its_graphs_are_captured(monkeypatch):
    """Graphed captures at the second call: neither times nor launches are taken before the third."""
    monkeypatch.setattr(timing, "synchronize", lambda device: None)
    calls = []
    in_turns({"a": lambda: calls.append(1)}, 3, torch.device("cuda"))
    assert len(calls) == 2 + 3
    calls.clear()
    count_launches(lambda: calls.append(1), torch.device("cuda"))
    assert len(calls) == 2 + 1


def test_what_takes_long_is_timed_once(monkeypatch):
    """On a CPU that once is the warm-up."""
    monkeypatch.setattr(timing, "synchronize", lambda device: None)
    monkeypatch.setattr(timing, "LONG", -1.0)
    calls = []
    for device, expected in (("cpu", 1), ("cuda", 3)):
        calls.clear()
        in_turns({"a": lambda: calls.append(1)}, 3, torch.device(device))
        assert len(calls) == expected


def test_operations_are_counted():
    x = torch.zeros(3)
    assert count_launches(lambda: (x + 1).view(3, 1) * 2, CPU) == 2  # a view starts nothing


def test_a_model_without_text_has_no_guidance(subject):
    """Neither is any timed, nor is its work counted."""
    spec = dataclasses.replace(subject.model.spec, text_features={}, text_encoder=None)
    torch.manual_seed(0)
    bare = dataclasses.replace(subject, model=Impact(spec).eval())
    row = latency.measure(bare, WAYS[1:], 1, [2], 0.64, RATES, points=2, repeats=1)[0]
    for part in ("encoder", "head"):
        assert row["parts"][part]["flops"] > 0
        assert row["parts"][f"{part}, guidance"]["flops"] == row["parts"][f"{part}, guidance"]["seconds"] == 0


def test_an_encoder_that_reuses_is_timed_from_pass_to_pass(subject):
    """Its passes depend on each other: they are run in order, as often as decoding does, with the same arguments."""
    way = Way("reusing", dataclasses.replace(DECODING, num_iterations=4, encoder_reuse=2))
    runner = Runner(subject, way, 1, 16)
    plan = runner.plan(way.decoding)
    seen, encode = [], ReusingEncoder.__call__

    def spy(self, patches, mask, cond, positions, num_kept):
        seen.append((len(patches), num_kept, positions.shape[1], int(mask[0].sum())))
        return encode(self, patches, mask, cond, positions, num_kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReusingEncoder, "__call__", spy)
        runner.sequence(plan, True)()
    assert seen == [(2 if it.guided else 1, it.kept, it.revealed, 16 - it.kept) for it in plan]
    row = latency.measure(subject, [way], 1, [4], 0.64, RATES, points=2, repeats=1)[0]
    assert row["parts"]["encoder"]["seconds"] > 0
    assert row["parts"]["encoder"]["launches"] > 0
