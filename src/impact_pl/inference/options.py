"""Keyword arguments that the calls of a pipeline share."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypedDict

from impact_pl.config import DecodingConfig
from impact_pl.errors import UserError
from impact_pl.inference.generate import Progress
from impact_pl.progress import Bar

MAX_FADE_MS = 1000.0


class DecodingOptions(TypedDict, total=False):
    """Fields of :class:`DecodingConfig` as keyword arguments. Omitted ones use the model's own values."""

    num_iterations: int
    num_diffusion_steps: int
    guidance_scale: float
    guidance_schedule: str
    temperature: float
    min_alpha_bar: float
    max_rms: float
    order: str
    confidence_candidates: int
    confidence_steps: int
    reveal: str
    final_diffusion_steps: int
    solver: str
    encoder_reuse: int
    engine: str
    precision: str


class DrawingOptions(DecodingOptions, total=False):
    """Keyword arguments of every call that draws a single sound.

    Attributes:
        seed: Seed of everything that is drawn (0).
        negative_caption: What guidance leads away from, in place of the null condition.
        preset: Name in ``config.PRESETS``, applied on top of the model's own decoding settings ("exact").
        decoding: Complete configuration that replaces the model's own; preset and options apply on top of it.
        progress: True shows a progress bar if stdout is a terminal. A function is called with (iteration, number of
            iterations).
    """

    seed: int
    negative_caption: str | None
    preset: str | None
    decoding: DecodingConfig | None
    progress: bool | Progress


class EditingOptions(DrawingOptions, total=False):
    """Keyword arguments of every call that changes a recording.

    Attributes:
        fade_ms: Length of the cross-fades around what is drawn, in milliseconds (20). They lie outside of it.
        match_level: Bring what is drawn to the level that the recording has next to it (True).
    """

    fade_ms: float
    match_level: bool


@dataclass(frozen=True)
class Style:
    """What :class:`EditingOptions` say, with the decoding configuration that they result in."""

    decoding: DecodingConfig
    progress: Progress | None
    seed: int = 0
    negative_caption: str | None = None
    fade_ms: float = 20.0
    match_level: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.fade_ms <= MAX_FADE_MS:
            raise UserError(f"fade_ms = {self.fade_ms:g}: choose 0 to {MAX_FADE_MS:g} milliseconds")


@contextmanager
def shown(progress: bool | Progress) -> Iterator[Progress | None]:
    """Return the progress callback of a call: the given function, or one that updates a progress bar."""
    if not isinstance(progress, bool):
        yield progress
    elif progress and sys.stdout.isatty():
        bar: Bar | None = None
        with ExitStack() as stack:

            def advance(_: int, total: int) -> None:
                nonlocal bar
                bar = bar or stack.enter_context(Bar("generating", total, 0, "iterations"))
                bar.advance()

            yield advance
    else:
        yield None
