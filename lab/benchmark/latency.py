"""How long generation takes, by part, beside the time that its work takes at least.

A whole generation of the paper's size takes minutes on a CPU, so it is put together from units (see ``units``); where
asked for, generations run to their end as well.
"""

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from impact_pl.config import DecodingConfig
from lab.benchmark import work
from lab.benchmark.machine import Rates
from lab.benchmark.subject import Subject
from lab.benchmark.timing import Work, count_launches, in_turns, median_seconds
from lab.benchmark.units import Runner, Times, Unit, Way, launches_of, units_of
from lab.benchmark.work import Parts

LIMITS = {"arithmetic": "compute", "memory": "memory"}
AROUND = 8


def measure(
    subject: Subject,
    ways: list[Way],
    batch: int,
    iterations: list[int],
    duration: float,
    rates: Rates,
    points: int = 5,
    repeats: int = 3,
    whole: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> list[dict]:
    """Rows of a record: each way at each number of iterations.

    Args:
        points: numbers of known patches at which the encoder is timed.
        repeats: of everything that takes less than :data:`lab.benchmark.timing.LONG`.
        whole: run generations to their end as well.
        say: is told what was timed, a line for each unit.
    """
    say(f"batch {batch}, {duration:g} s of sound, {', '.join(way.name for way in ways)}:")
    frames = subject.num_frames(duration)
    runners = {way.name: Runner(subject, way, batch, frames) for way in ways}
    configs = {way.name: configs_of(way, iterations) for way in ways}
    times = time_units(runners, configs, points, repeats, say)
    around = measure_around(subject, batch, frames, repeats, rates)
    rows = []
    for index in range(max(map(len, configs.values()))):
        here = {name: found[index] for name, found in configs.items() if index < len(found)}
        loops = in_turns({name: runners[name].loop(each) for name, each in here.items()}, repeats, subject.device)
        wholes = {}
        if whole:
            spent = [times[name].parts(runners[name], runners[name].plan(each)) for name, each in here.items()]
            expected = sum(sum(found.values()) for found in spent)
            say(f"running all of them to their end, about {expected:.0f} s each time")
            calls = {name: runners[name].whole(each) for name, each in here.items()}
            wholes = in_turns(calls, repeats, subject.device)
            say("whole: " + listed(wholes))
        for name, config in here.items():
            parts = generation_parts(runners[name], config, times[name], loops[name], rates)
            row = describe(runners[name], config, duration) | {"whole": whole}
            row["units_seconds"] = sum(part["seconds"] for part in parts.values())
            row["generation_seconds"] = wholes.get(name, row["units_seconds"])
            row["parts"] = around | parts
            row["seconds"] = row["generation_seconds"] + sum(part["seconds"] for part in around.values())
            row["bound_seconds"] = sum(part["bound_seconds"] for part in row["parts"].values())
            rows.append(row)
    return rows


def time_units(
    runners: dict[str, Runner],
    configs: dict[str, list[DecodingConfig]],
    points: int,
    repeats: int,
    say: Callable[[str], object],
) -> dict[str, Times]:
    """Way -> the times of its units. Ways that want the same unit take turns at it."""
    units = {}
    for name, runner in runners.items():
        plans = [runner.plan(config) for config in configs[name]]
        units[name] = units_of(runner, plans, points)
    seconds: dict[str, dict[Unit, float]] = {name: {} for name in runners}
    for unit in dict.fromkeys(unit for found in units.values() for unit in found):
        here = {name: found[unit] for name, found in units.items() if unit in found}
        device = next(iter(runners.values())).device
        found = in_turns(here, repeats, device)
        say(f"{unit}: {listed(found)}")
        for name in found:
            seconds[name][unit] = found[name]
    return {name: Times(found) for name, found in seconds.items()}


def generation_parts(
    runner: Runner, config: DecodingConfig, times: Times, loop_seconds: float, rates: Rates
) -> dict[str, dict]:
    """Part -> its measured seconds, its work, and what that takes at least; ``rest`` is the decoding loop itself."""
    plan = runner.plan(config)
    seconds, launches = times.parts(runner, plan), launches_of(runner, plan)
    spec = runner.subject.model.spec
    bounds = work.generation(spec, rates, config, runner.batch, runner.num_patches, plan)
    parts = {}
    for part in ("encoder", "head"):
        for name in (part, f"{part}, guidance"):
            parts[name] = part_row(seconds[name], bounds[name], launches[name], rates)
    return parts | {"rest": part_row(loop_seconds, Parts(0, 0, 0, 0, 0), 0.0, rates)}


def listed(seconds: dict[str, float]) -> str:
    return ", ".join(f"{value:.4g} s" for value in seconds.values())


def configs_of(way: Way, iterations: list[int]) -> list[DecodingConfig]:
    if way.preset:
        return [way.decoding]
    return [dataclasses.replace(way.decoding, num_iterations=count) for count in iterations]


def describe(runner: Runner, config: DecodingConfig, duration: float) -> dict:
    return {
        "way": runner.way.name,
        "engine": config.engine,
        "precision": config.precision,
        "preset": runner.way.preset,
        "batch": runner.batch,
        "iterations": config.num_iterations,
        "diffusion_steps": config.num_diffusion_steps,
        "duration": duration,
    }


def part_row(seconds: float, least: Parts, launches: float, rates: Rates) -> dict:
    """What a part took and takes at least, and how near it came to that.

    Launches are what this program starts, not what the algorithm needs: they stand beside the bound, not in it.
    """
    times = {name: getattr(least, key) for name, key in LIMITS.items()}
    return {
        "seconds": seconds,
        "flops": least.flops,
        "bytes": least.bytes,
        "launches": launches,
        "compute_seconds": least.compute,
        "memory_seconds": least.memory,
        "launch_seconds": launches * rates.launch,
        "bound_seconds": least.bound,
        "limited_by": max(times, key=lambda name: times[name]) if least.bound > 0 else None,
        "ratio": seconds / least.bound if least.bound > 0 else None,
    }


def measure_around(subject: Subject, batch: int, num_frames: int, repeats: int, rates: Rates) -> dict[str, dict]:
    """Codec and text encoder, where the subject has them; the same for all ways, and in float32.

    More than AROUND clips are taken as so many times what AROUND take. Work is counted on one.
    """
    clips = min(batch, AROUND)
    codec, encode_text = subject.codec, subject.encode_text
    calls: dict[str, tuple[Callable[[int], object], int]] = {}  # of so many clips; and bytes of weights
    if encode_text is not None:
        calls["text"] = encode_text, subject.text_bytes
    if codec is not None:
        latents = subject.latents(clips, num_frames)
        calls["codec"] = lambda count: codec.decode(latents[:count]), sum(p.nbytes for p in codec.parameters())
    found = {}
    for part, (call, size) in calls.items():
        with torch.no_grad():
            seconds = median_seconds(functools.partial(call, clips), repeats, subject.device)
            flops = batch * count_flops(functools.partial(call, 1))
            launches = count_launches(functools.partial(call, 1), subject.device)
        least = work.total([work.Work(flops, size, size)], rates, "32-true")
        found[part] = part_row(seconds * batch / clips, least, launches, rates)
    return found


def count_flops(call: Work) -> int:
    """Of one call, as it runs: matrix products, convolutions and attention."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # a CPU's fused one is not counted
        call()
    return counter.get_total_flops()
