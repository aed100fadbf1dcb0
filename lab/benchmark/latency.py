"""Time complete generations, from text features to latents, as well as the text encoder and the codec."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from impact_pl.config import DecodingConfig
from impact_pl.inference.engine import Engine, build_engine
from impact_pl.inference.generate import generate
from impact_pl.precision import dtype_of
from lab.benchmark.subject import Subject
from lab.benchmark.timing import in_turns, seconds_of

MAX_DECODED = 8  # sounds decoded by the codec at once


@dataclass(frozen=True)
class DecodingVariant:
    """A decoding to measure. Unless it is a ``preset``, the requested number of iterations replaces its own."""

    name: str
    decoding: DecodingConfig
    preset: bool = False

    def with_iterations(self, iterations: list[int]) -> list[DecodingConfig]:
        if self.preset:
            return [self.decoding]
        return [dataclasses.replace(self.decoding, num_iterations=count) for count in iterations]


@dataclass(frozen=True)
class Setting:
    """Parameters shared by all variants of a measurement."""

    subject: Subject
    batch: int
    duration: float
    repeats: int

    def generation(self, decoding: DecodingConfig, engine: Engine) -> Callable[[], object]:
        """Return a function that runs one generation."""
        subject = self.subject
        num_frames, text = subject.num_frames(self.duration), subject.text(self.batch)
        generator = torch.Generator(subject.device).manual_seed(0)
        return lambda: generate(subject.model, text, num_frames, self.batch, decoding, generator, engine=engine)


def measure(
    setting: Setting,
    variants: list[DecodingVariant],
    iterations: list[int],
    say: Callable[[str], object] = lambda line: None,
) -> list[dict[str, Any]]:
    """Measure rows of a record: each variant at each number of iterations.

    ``seconds`` covers all parts, ``generation_seconds`` from text features to latents. The row with the most iterations
    of each variant also lists encoder and head among its ``parts``.
    """
    device = setting.subject.device
    engines = {variant.name: build_engine(setting.subject.model, variant.decoding) for variant in variants}
    configs = {variant.name: variant.with_iterations(sorted(iterations, reverse=True)) for variant in variants}
    around = time_around(setting, list(dict.fromkeys(variant.decoding.precision for variant in variants)))
    rows = []
    for index in range(max(map(len, configs.values()))):
        here = {name: found[index] for name, found in configs.items() if index < len(found)}
        calls = {name: setting.generation(config, engines[name]) for name, config in here.items()}
        seconds = in_turns(calls, setting.repeats, device)
        for variant in (each for each in variants if each.name in here):
            name, config = variant.name, here[variant.name]
            parts = time_parts(setting, config, engines[name]) if index == 0 else {}
            rows.append(row_of(setting, variant, config, seconds[name], around[config.precision] | parts))
            size = f"{config.num_iterations} x {config.num_diffusion_steps}, {setting.duration:g} s of sound"
            say(f"{name}, batch {setting.batch}, {size}: {seconds[name]:.4g} s")
    return rows


def row_of(
    setting: Setting, variant: DecodingVariant, config: DecodingConfig, seconds: float, parts: dict[str, float]
) -> dict[str, Any]:
    around = sum(parts.get(name, 0.0) for name in ("text", "codec"))
    return {
        "variant": variant.name,
        "engine": config.engine,
        "precision": config.precision,
        "preset": variant.preset,
        "batch": setting.batch,
        "iterations": config.num_iterations,
        "diffusion_steps": config.num_diffusion_steps,
        "duration": setting.duration,
        "whole": True,
        "generation_seconds": seconds,
        "seconds": seconds + around,
        "parts": parts,
    }


def time_parts(setting: Setting, decoding: DecodingConfig, engine: Engine) -> dict[str, float]:
    """Time encoder, head and the rest in a separate generation that synchronises around each."""
    spent = {"encoder": 0.0, "head": 0.0}

    def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def run(*args: Any, **kwargs: Any) -> Any:
            results = []
            spent[part] += seconds_of(lambda: results.append(call(*args, **kwargs)))
            return results[0]

        return run

    head, reusing = copy.copy(engine.head), engine.reusing
    head.sample = timed("head", head.sample)  # type: ignore[method-assign]
    watched = dataclasses.replace(
        engine,
        encode=timed("encoder", engine.encode),
        head=head,
        reusing=None if reusing is None else lambda period: timed("encoder", reusing(period)),
    )
    total = seconds_of(setting.generation(decoding, watched))
    return spent | {"rest": total - sum(spent.values())}


def time_around(setting: Setting, precisions: list[str]) -> dict[str, dict[str, float]]:
    """Time text encoder and codec, if the subject has them, by precision. The text encoder computes in float32.

    Times for more than MAX_DECODED sounds are extrapolated from MAX_DECODED.
    """
    subject, sounds = setting.subject, min(setting.batch, MAX_DECODED)
    calls: dict[str, Callable[[], object]] = {}
    if subject.encode_text is not None:
        calls["text"] = functools.partial(subject.encode_text, sounds)
    if subject.codec is not None:
        latents = subject.latents(sounds, subject.num_frames(setting.duration))
        for precision in precisions:
            decode = subject.codec.decoder_in(dtype_of(precision, subject.device))
            calls[precision] = functools.partial(decode, latents, None)
    with torch.no_grad():
        times = in_turns(calls, setting.repeats, subject.device)
    times = {part: seconds * setting.batch / sounds for part, seconds in times.items()}
    return {
        precision: {part: times[key] for part, key in (("text", "text"), ("codec", precision)) if key in times}
        for precision in precisions
    }
