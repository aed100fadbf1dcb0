"""Iterative parallel decoding (S1 Sec. 3.2): start all masked, reveal patches in T iterations, each conditioned on all.

Dimensions: B clips, N patches, P numbers a patch, R still masked patches, K revealed in this iteration, D width.
The loop knows the model by two callables only, or three.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from impact_pl.config import DECODING_CHOICES, DecodingConfig
from impact_pl.errors import UserError
from impact_pl.randomness import Generators, draw_gumbel
from impact_pl.sampling.diffusion import usable_alpha_bars
from impact_pl.sampling.masking import columns, masked_counts, random_order, take

TOLERANCE = 0.1  # of a patch's numbers, whose standard deviation is about 1: an error that does not matter
GUMBEL_SCALE = 1.0  # of the noise on the confidence when everything is still masked, in nats

GUIDANCE_SCHEDULES: dict[str, Callable[[float], float]] = {
    # share of the way from 1 to guidance_scale, of the progress t/T
    "cosine": lambda progress: math.cos(math.pi / 2 * progress),  # S1 Sec. 3.2: falls
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1 - math.cos(math.pi / 2 * progress),  # MAR: linear in the share revealed, rises
}


class Encode(Protocol):
    """(patches (B, N, P), mask (B, N), positions (B, K), number kept, guided) -> hidden (B, K, D), null_hidden.

    The number, N less those that are masked, is told because counting them would wait for the device. ``null_hidden``
    (B, K, D) is that of the null condition: None unless there is a condition and the guidance scale is not 1.
    """

    def __call__(
        self, patches: Tensor, mask: Tensor, positions: Tensor, num_kept: int, guided: bool
    ) -> tuple[Tensor, Tensor | None]: ...


class Sample(Protocol):
    """(hidden (B, K, D), null_hidden (B, K, D) | None, guidance_scale, num_diffusion_steps) -> patches (B, K, P)."""

    def __call__(
        self, hidden: Tensor, null_hidden: Tensor | None, guidance_scale: float, num_diffusion_steps: int
    ) -> Tensor: ...


class Propose(Protocol):
    """(hidden (B, R, D), null_hidden (B, R, D) | None, guidance_scale) -> patches (B, R, P) | None, confidence (B, R).

    Patches are those whose confidence it is, to be kept; None: the confidence is of the position.
    """

    def __call__(
        self, hidden: Tensor, null_hidden: Tensor | None, guidance_scale: float
    ) -> tuple[Tensor | None, Tensor]: ...


def guidance_at(schedule: str, guidance_scale: float, iteration: int, num_iterations: int) -> float:
    """beta(t) of iteration t in 0 .. T; ``cosine`` is S1's 1 + cos(pi/2 t/T) (beta_max - 1).

    Iterations count from 1, as in the cosine reveal schedule, so the last one runs without guidance under ``cosine``.
    """
    if iteration == num_iterations and schedule == "cosine":
        return 1.0  # exactly: cos(pi/2) is not 0 in floating point
    return 1 + GUIDANCE_SCHEDULES[schedule](iteration / num_iterations) * (guidance_scale - 1)


def diffusion_steps_at(config: DecodingConfig, iteration: int) -> int:
    """Of iteration t in 1 .. T: falling evenly from num_diffusion_steps to final_diffusion_steps.

    DiSA (arXiv 2505.20297): the more patches are known, the narrower is the distribution of the others, and the fewer
    steps it takes to draw from it.
    """
    first, last = config.num_diffusion_steps, config.final_diffusion_steps or config.num_diffusion_steps
    return round(first + (last - first) * (iteration - 1) / max(1, config.num_iterations - 1))


def check_decoding(config: DecodingConfig, num_timesteps: int) -> None:
    """ValueError, with the choices, for a configuration that cannot be decoded with."""
    if config.num_iterations < 1:
        raise UserError(f"num_iterations = {config.num_iterations}: at least 1 (16 to 64 is the useful range).")
    if not (math.isfinite(config.guidance_scale) and config.guidance_scale >= 0):
        raise UserError(f"guidance_scale = {config.guidance_scale}: choose a number from 0 up; 1 means no guidance.")
    if not (math.isfinite(config.temperature) and config.temperature >= 0):
        raise UserError(f"temperature = {config.temperature}: choose a number from 0 up.")
    if not 0 <= config.min_alpha_bar <= 0.5:
        raise UserError(f"min_alpha_bar = {config.min_alpha_bar}: choose 0 (as MAR) to 0.5.")
    num_usable = len(usable_alpha_bars(num_timesteps, config.min_alpha_bar))
    for name in ("num_diffusion_steps", "confidence_steps"):
        if not 1 <= getattr(config, name) <= num_usable:
            raise UserError(
                f"{name} = {getattr(config, name)}: choose 1 to {num_usable}, the timesteps that min_alpha_bar = "
                f"{config.min_alpha_bar} leaves of {num_timesteps}."
            )
    if not 0 <= config.final_diffusion_steps <= config.num_diffusion_steps:
        raise UserError(
            f"final_diffusion_steps = {config.final_diffusion_steps}: choose 1 to num_diffusion_steps = "
            f"{config.num_diffusion_steps}, or 0 for the same number in all iterations."
        )
    if not 1 <= config.encoder_reuse <= config.num_iterations:
        raise UserError(f"encoder_reuse = {config.encoder_reuse}: choose 1 (never) to {config.num_iterations}.")
    if config.encoder_reuse > 1 and config.engine == "reference":
        reuse = config.encoder_reuse
        raise UserError(f"encoder_reuse = {reuse}, but engine = reference computes everything: choose 1.")
    for name, choices in DECODING_CHOICES.items():
        if getattr(config, name) not in choices:
            raise UserError(f"{name} = {getattr(config, name)!r}: choose {', '.join(choices)}.")
    if (config.order == "confidence" or config.reveal == "adaptive") and config.confidence_candidates < 2:
        raise UserError(f"confidence_candidates = {config.confidence_candidates}: a spread needs at least 2 draws.")


def decode(
    encode: Encode,
    sample: Sample,
    patches: Tensor,
    config: DecodingConfig,
    generator: Generators,
    progress: Callable[[int, int], None] | None = None,
    propose: Propose | None = None,
) -> Tensor:
    """All patches (B, N, P), predicted from nothing.

    Args:
        patches: (B, N, P) zeros, which fix shape, type and device.
        generator: of the order and of the noise on the confidence, for the batch or per clip.
        propose: for order=confidence, of a model whose draws have a probability; None: :func:`confidence`.
        progress: called with (iteration, T) after each iteration, iteration counting from 1.
    """
    propose = propose or (lambda hidden, null_hidden, guidance_scale: (None, confidence(hidden, sample, config)))
    batch, num_patches, _ = patches.shape
    mask = torch.ones(batch, num_patches, dtype=torch.bool, device=patches.device)
    masked = random_order(batch, num_patches, generator, patches.device)  # (B, R); revealed from its end
    adaptive = Budget(config.num_iterations) if config.reveal == "adaptive" else None
    counts = masked_counts(num_patches, config.num_iterations, "linear" if adaptive else config.reveal)
    for iteration, left in enumerate(counts, start=1):
        if left < masked.shape[1]:
            beta = guidance_at(config.guidance_schedule, config.guidance_scale, iteration, config.num_iterations)
            scored = left > 0 and (config.order == "confidence" or adaptive is not None)
            wanted = masked if scored else masked[:, left:]
            hidden, null_hidden = encode(patches, mask, wanted, num_patches - masked.shape[1], beta != 1)
            new: Tensor | None = None
            if scored:
                new, score = propose(hidden, null_hidden, beta)
                if config.order == "confidence":
                    noise = draw_gumbel(score.shape, generator, score.device)
                    rank = (score + GUMBEL_SCALE * left / num_patches * noise).argsort(dim=1)  # least certain first
                    masked, score, hidden = masked.gather(1, rank), score.gather(1, rank), take(hidden, rank)
                    null_hidden, new = (None if x is None else take(x, rank) for x in (null_hidden, new))
                left = left if adaptive is None else min(left, adaptive.left(score))
                hidden = hidden[:, left:]
                null_hidden, new = (None if x is None else x[:, left:] for x in (null_hidden, new))
            revealed, masked = masked[:, left:], masked[:, :left]  # (B, K), (B, R - K)
            if new is None:
                new = sample(hidden, null_hidden, beta, diffusion_steps_at(config, iteration))
            patches = patches.scatter(1, columns(revealed, patches), new)
            mask = mask.scatter(1, revealed, False)
        if progress is not None:
            progress(iteration, config.num_iterations)
    return patches


class Budget:
    """``reveal=adaptive``: an iteration reveals what is together as uncertain as a T-th of the clip was at first.

    Patches that are revealed together are drawn without knowing of each other; what that can get wrong is at most the
    sum of what is uncertain about each of them. A patch of variance v costs 1/2 log(1 + v / TOLERANCE^2) nats a
    number: the rate that tells a Gaussian up to that error, next to nothing once the context has decided it.

    No iteration reveals fewer than ``linear`` would, so T are enough, and a clip that context decides quickly takes
    fewer. In a batch the most uncertain clip decides, since all reveal the same number. The variances are those of
    :func:`confidence`, of quick draws at all masked positions in every iteration, which are not free; and to know the
    number, the host waits for the device.
    """

    def __init__(self, num_iterations: int) -> None:
        self.num_iterations = num_iterations
        self.budget: Tensor | None = None  # (B, 1)

    def left(self, score: Tensor) -> int:
        """How many of the masked patches stay so, given their confidence (B, R); they are revealed from the end."""
        cost = 0.5 * torch.log1p(torch.exp(-2 * score) / TOLERANCE**2).flip(1)  # (B, R)
        if self.budget is None:
            self.budget = cost.sum(dim=1, keepdim=True) / self.num_iterations
        return score.shape[1] - int((cost.cumsum(dim=1) <= self.budget).sum(dim=1).min())


def confidence(hidden: Tensor, sample: Sample, config: DecodingConfig) -> Tensor:
    """How consistent the head is at each position (B, R), in nats: reveal the highest first.

    ``confidence_candidates`` quick draws (``confidence_steps`` diffusion steps, no guidance) per position; the score is
    -1/2 log of their variance, averaged over the patch's numbers. MaskGIT (arXiv 2202.04200, Sec. 3.2) reveals the
    tokens of highest log probability plus Gumbel noise that fades with the share still masked. A continuous patch has
    no probability to read off, but the expected log density of a draw is minus the differential entropy; for a Gaussian
    of variance v that is -1/2 log v and a constant, a number, and this is the score.

    Note: S1 (Sec. 3.2.1) reveals in random order; this is an option. Its cost: each iteration draws all R masked
    positions instead of K, with candidates x steps head evaluations each. At T = 64, 4 x 10 draws against 100 guided
    steps, that is about 8 times the arithmetic of the head, in 1.1 times its sequential steps. The quick draws are
    discarded; revealed patches are drawn at full quality.
    """
    repeated = hidden.repeat(config.confidence_candidates, 1, 1)  # (C * B, R, D)
    draws = sample(repeated, None, 1.0, config.confidence_steps)
    draws = draws.view(config.confidence_candidates, *hidden.shape[:2], -1)  # (C, B, R, P)
    return -0.5 * draws.var(dim=0).mean(dim=-1).clamp(min=1e-12).log()
