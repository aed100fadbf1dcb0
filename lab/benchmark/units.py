"""Parts of a generation as calls that can be timed one by one, and what a whole generation's parts take by them.

Every iteration of decoding is an encoder pass and a loop of the head, and iterations are alike: a few are timed, the
rest is read off between them. The encoder's time is taken as piecewise linear in the number of patches known, the
head's in the number revealed, and as linear in diffusion steps where a loop is long.

Dimensions: B clips, N patches of P numbers, K positions revealed, T iterations.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from impact_pl.config import DecodingConfig
from impact_pl.inference.engine import Bound, bind, build_engine
from impact_pl.inference.generate import generate
from impact_pl.sampling.decoding import decode
from impact_pl.sampling.masking import mask_from_order, random_order
from lab.benchmark.subject import Subject
from lab.benchmark.timing import Work, count_launches
from lab.benchmark.work import Iteration, iterations_of

LONG_LOOP = 5_000  # rows times steps, from which a loop of the head is timed at SHORT_LOOPS steps instead
SHORT_LOOPS = (10, 20)
MAX_COUNTS = 8  # numbers of revealed patches that are timed, at most


@dataclass(frozen=True)
class Way:
    """One way to decode. ``decoding.num_iterations`` is replaced by those asked for, unless it is a ``preset``'s."""

    name: str
    decoding: DecodingConfig
    preset: bool = False


class Unit(NamedTuple):
    """What is timed: the encoder with so many patches known, or the head with so many revealed and diffusion steps.

    ``passes`` are the encoder's of so many iterations together, where each depends on those before it.
    """

    part: str
    patches: int
    guided: bool
    steps: int

    def __str__(self) -> str:
        size = {"encoder": f"{self.patches} known", "passes": f"{self.patches} iterations"}
        shown = size.get(self.part, f"{self.patches} revealed, {self.steps} steps")
        return f"{self.part}, {shown}{', guided' if self.guided else ''}"


class Runner:
    """One way at one batch and length: makes the calls that are timed."""

    def __init__(self, subject: Subject, way: Way, batch: int, num_frames: int) -> None:
        self.subject, self.way, self.batch, self.num_frames = subject, way, batch, num_frames
        model, decoding = subject.model, way.decoding
        self.device = subject.device
        self.engine = build_engine(model, decoding)
        self.generator = torch.Generator(self.device).manual_seed(0)
        with torch.no_grad():
            self.cond, self.null = (model.embed_text(text, batch) for text in (subject.text(batch), None))
        self.calls = self._bind()
        self.unguided = dataclasses.replace(self.calls, both=None)
        shape = (batch, subject.num_patches(num_frames), model.patch_dim)
        self.patches = torch.zeros(shape, device=self.device)

    def _bind(self) -> Bound:
        return bind(self.engine, self.cond, self.null, self.way.decoding, self.generator)

    @property
    def reuses(self) -> bool:
        """Whether an encoder pass depends on the passes before it."""
        return self.way.decoding.encoder_reuse > 1

    @property
    def num_patches(self) -> int:
        """N."""
        return self.patches.shape[1]

    def plan(self, config: DecodingConfig) -> list[Iteration]:
        """The iterations of ``config``; a model without text has nothing to guide with."""
        plan = iterations_of(config, self.num_patches)
        return plan if self.calls.both is not None else [it._replace(guidance_scale=1.0) for it in plan]

    def guides(self, it: Iteration) -> bool:
        """Whether this way computes guidance's second half in that iteration."""
        always = self.engine.guides_always and self.way.decoding.guidance_scale != 1
        return self.calls.both is not None and (it.guided or always)

    def encoder(self, kept: int, revealed: int, guided: bool) -> Work:
        calls = self.calls if guided else self.unguided
        order = random_order(self.batch, self.num_patches, self.generator, self.device)
        mask = mask_from_order(order, self.num_patches - kept)
        return self._run(lambda: calls.encode(self.patches, mask, order[:, :revealed], kept, guided))

    def sequence(self, plan: list[Iteration], guided: bool) -> Work:
        """The encoder's passes of all iterations one after the other, for an encoder that reuses what it computed."""
        order = random_order(self.batch, self.num_patches, self.generator, self.device)

        def run() -> None:
            calls = self._bind()
            for it in plan:
                left = self.num_patches - it.kept
                on = guided and self.guides(it)
                here = calls if on else dataclasses.replace(calls, both=None)
                here.encode(
                    self.patches, mask_from_order(order, left), order[:, left - it.revealed : left], it.kept, on
                )

        return self._run(run)

    def head(self, revealed: int, guided: bool, steps: int) -> Work:
        calls: Bound = self.calls if guided else self.unguided
        shape = (self.batch, revealed, self.subject.model.spec.model.dim)
        hidden, null = (torch.randn(shape, device=self.device) for _ in range(2))
        return self._run(lambda: calls.sample(hidden, null if guided else None, 2.0 if guided else 1.0, steps))

    def loop(self, decoding: DecodingConfig) -> Work:
        """Decoding with stand-ins for encoder and head: orders, masks, and what puts patches into place."""

        def encode(patches: Tensor, mask: Tensor, positions: Tensor, num_kept: int, guided: bool):
            hidden = patches.new_zeros(len(patches), positions.shape[1], 1)
            return hidden, hidden if guided else None

        def sample(hidden: Tensor, null_hidden: Tensor | None, guidance_scale: float, num_diffusion_steps: int):
            return hidden.expand(-1, -1, self.patches.shape[2])

        return self._run(lambda: decode(encode, sample, self.patches, decoding, self.generator))

    def whole(self, decoding: DecodingConfig) -> Work:
        text = self.subject.text(self.batch)
        model = self.subject.model
        return lambda: generate(model, text, self.num_frames, self.batch, decoding, self.generator, engine=self.engine)

    def _run(self, call: Work) -> Work:
        dtype = self.engine.autocast

        def run() -> object:
            with torch.no_grad(), torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                return call()

        return run

    @cached_property
    def launches(self) -> dict[tuple[str, bool], tuple[float, float]]:
        """Operations that a pass of the encoder or a loop of the head starts, and one step more of a loop.

        With and without guidance. A loop that is one graph starts hardly more with more steps.
        """
        found: dict[tuple[str, bool], tuple[float, float]] = {}
        revealed = min(2, self.num_patches)
        for guided in {False, self.calls.both is not None}:
            found["encoder", guided] = count_launches(self.encoder(0, revealed, guided), self.device), 0.0
            few, more = (count_launches(self.head(revealed, guided, steps), self.device) for steps in SHORT_LOOPS)
            step = (more - few) / (SHORT_LOOPS[1] - SHORT_LOOPS[0])
            found["head", guided] = few - SHORT_LOOPS[0] * step, step
        return found


def spread(values: Iterable[int], count: int) -> list[int]:
    """At most ``count`` of the different values, evenly over their ranks, both ends included."""
    ordered = sorted(set(values))
    if len(ordered) <= count:
        return ordered
    return [ordered[round(index)] for index in np.linspace(0, len(ordered) - 1, count)]


def units_of(runner: Runner, plans: list[list[Iteration]], points: int) -> dict[Unit, Work]:
    """What has to be timed for ``plans``, each with and without guidance where there is any."""
    iterations = [it for plan in plans for it in plan]
    guidance = sorted({False, *(runner.guides(it) for it in iterations)})
    revealed = {it.kept: it.revealed for it in iterations}
    units: dict[Unit, Work] = {}
    for guided in guidance:
        for plan in plans if runner.reuses else []:
            units[passes(plan, guided)] = runner.sequence(plan, guided)
        for kept in [] if runner.reuses else spread(revealed, points):
            units[Unit("encoder", kept, guided, 0)] = runner.encoder(kept, revealed[kept], guided)
        for count in spread((it.revealed for it in iterations), MAX_COUNTS):
            for steps in loop_lengths(runner.batch * count, [it.num_diffusion_steps for it in iterations]):
                units[Unit("head", count, guided, steps)] = runner.head(count, guided, steps)
    return units


def passes(plan: list[Iteration], guided: bool) -> Unit:
    return Unit("passes", len(plan), guided, 0)


def loop_lengths(rows: int, steps: Iterable[int]) -> tuple[int, ...]:
    """At which numbers of steps a loop is timed: at its own, or at two from which longer ones follow."""
    needed = sorted(set(steps))
    if rows * needed[-1] > LONG_LOOP and needed[-1] > SHORT_LOOPS[-1]:
        return SHORT_LOOPS
    return (needed[0], needed[-1]) if len(needed) > 1 else (needed[0],)


class Times:
    """Seconds of units, and those read off between them."""

    def __init__(self, seconds: dict[Unit, float]) -> None:
        self.seconds = seconds

    def encoder(self, kept: int, guided: bool) -> float:
        known = sorted(
            (unit.patches, value) for unit, value in self.seconds.items() if unit[::2] == ("encoder", guided)
        )
        return float(np.interp(kept, [size for size, _ in known], [value for _, value in known]))

    def head(self, revealed: int, guided: bool, steps: int) -> float:
        counts = sorted({unit.patches for unit in self.seconds if unit[::2] == ("head", guided)})
        values = [self._loop(count, guided, steps) for count in counts]
        return float(np.interp(revealed, counts, values))

    def _loop(self, count: int, guided: bool, steps: int) -> float:
        known = sorted(
            (unit.steps, value) for unit, value in self.seconds.items() if unit[:3] == ("head", count, guided)
        )
        (first, low), (last, high) = known[0], known[-1]
        if first == last:
            return low * steps / first
        return low + (high - low) * (steps - first) / (last - first)

    def parts(self, runner: Runner, plan: list[Iteration]) -> dict[str, float]:
        """Seconds of all iterations: encoder and head for the condition alone, and what guidance adds to each."""
        guided = [(it, runner.guides(it)) for it in plan]
        if runner.reuses:
            encoder, both = (self.seconds[passes(plan, on)] for on in (False, any(on for _, on in guided)))
        else:
            encoder = sum(self.encoder(it.kept, False) for it in plan)
            both = sum(self.encoder(it.kept, on) for it, on in guided)
        head = sum(self.head(it.revealed, False, it.num_diffusion_steps) for it in plan)
        both_head = sum(self.head(it.revealed, on, it.num_diffusion_steps) for it, on in guided)
        return {
            "encoder": encoder,
            "encoder, guidance": both - encoder,
            "head": head,
            "head, guidance": both_head - head,
        }


def launches_of(runner: Runner, plan: list[Iteration]) -> dict[str, float]:
    """Operations started in all iterations, by part as in :meth:`Times.parts`."""
    counts = runner.launches
    found = dict.fromkeys(("encoder", "encoder, guidance", "head", "head, guidance"), 0.0)
    for it in plan:
        for part in ("encoder", "head"):
            alone, both = (
                once + it.num_diffusion_steps * step
                for once, step in (counts[part, False], counts[part, runner.guides(it)])
            )
            found[part] += alone
            found[f"{part}, guidance"] += both - alone
    if runner.reuses:
        alone, both = (count_launches(runner.sequence(plan, on), runner.device) for on in (False, True))
        found |= {"encoder": alone, "encoder, guidance": both - alone}
    return found
