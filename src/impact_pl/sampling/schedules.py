"""What happens in which decoding iteration: patches revealed, guidance scale, diffusion steps. Without PyTorch.

Dimension key: N patches, T decoding iterations.
"""

import math
from collections.abc import Callable

from impact_pl.config import DecodingConfig
from impact_pl.errors import UserError

MAX_ITERATIONS = 100_000

GUIDANCE_SCHEDULES: dict[str, Callable[[float], float]] = {
    # Progress t/T -> how far the scale is from 1 (0) to guidance_scale (1).
    "cosine": lambda progress: math.cos(math.pi / 2 * progress),  # IMPACT Sec. 3.2: decreasing
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1 - math.cos(math.pi / 2 * progress),  # MAR: increasing, linear in the revealed fraction
}

REVEALS: dict[str, Callable[[float], float]] = {
    # Progress t/T in [0, 1] -> fraction still masked (names from MaskGIT, arXiv 2202.04200, Sec. 4.4).
    "cosine": lambda progress: math.cos(math.pi / 2 * progress),  # IMPACT Sec. 3.2: few patches first, many last
    "linear": lambda progress: 1 - progress,  # the same number in every iteration
    "sqrt": lambda progress: 1 - math.sqrt(progress),  # many patches first, few last
}
PROGRESS: dict[str, Callable[[float], float]] = {  # inverses of REVEALS: fraction still masked -> progress
    "cosine": lambda masked: math.acos(masked) * 2 / math.pi,
    "linear": lambda masked: 1 - masked,
    "sqrt": lambda masked: (1 - masked) ** 2,
}


def masked_counts(
    num_patches: int, num_iterations: int, reveal: str = "cosine", num_masked: int | None = None
) -> list[int]:
    """Count the patches still masked after iterations 1 .. T: floor(N cos(pi/2 t/T)) (IMPACT Sec. 3.2), or per REVEALS.

    As in MAR, every iteration reveals at least one patch while more than one is left, and the last reveals all. With T
    > N some iterations therefore reveal none and cost nothing.

    Args:
        num_patches: N.
        num_iterations: T.
        reveal: Key of REVEALS.
        num_masked: Patches masked at the start; None: all. With fewer, the schedule starts where only these are left,
            and the iterations before that are dropped: the result has fewer than T counts.
    """
    if num_patches < 1 or not 1 <= num_iterations <= MAX_ITERATIONS:
        raise UserError(
            f"{num_patches} patches in {num_iterations} iterations: at least 1 each, and at most {MAX_ITERATIONS} "
            "iterations."
        )
    remaining = num_patches if num_masked is None else num_masked
    if remaining == 0:
        return []
    start = PROGRESS[reveal](remaining / num_patches)
    iterations = max(1, math.ceil(num_iterations * (1 - start) - 1e-9))
    counts = []
    for iteration in range(1, iterations):
        planned = math.floor(num_patches * REVEALS[reveal](start + (1 - start) * iteration / iterations))
        remaining = max(1, min(remaining - 1, planned))
        counts.append(remaining)
    return [*counts, 0]


def guidance_at(schedule: str, guidance_scale: float, iteration: int, num_iterations: int) -> float:
    """Compute the guidance scale beta(t) of iteration t; ``cosine`` is IMPACT's 1 + cos(pi/2 t/T) (beta_max - 1).

    Iterations count from 1, as in the cosine reveal schedule. Under ``cosine`` the last one therefore runs without
    guidance.
    """
    if iteration == num_iterations and schedule == "cosine":
        return 1.0  # exactly 1: cos(pi/2) is not 0 in floating point
    return 1 + GUIDANCE_SCHEDULES[schedule](iteration / num_iterations) * (guidance_scale - 1)


def diffusion_steps_at(config: DecodingConfig, iteration: int) -> int:
    """Compute the diffusion steps of iteration t: linear from num_diffusion_steps to final_diffusion_steps.

    DiSA (arXiv 2505.20297): the more patches are known, the narrower the distribution of the others, and the fewer
    steps are needed to sample from it.
    """
    first, last = config.num_diffusion_steps, config.final_diffusion_steps or config.num_diffusion_steps
    return round(first + (last - first) * (iteration - 1) / max(1, config.num_iterations - 1))
