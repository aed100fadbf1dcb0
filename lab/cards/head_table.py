"""`python -m lab.cards.head_table`: size and cost of the heads, as Markdown (docs/recipes.md)."""

import argparse
import itertools
from collections import Counter
from dataclasses import dataclass

from impact_pl.cli.compose import compose
from impact_pl.config import DecodingConfig, TrainConfig
from impact_pl.errors import user_errors
from impact_pl.models.heads.base import Head
from impact_pl.models.spec import ImpactSpec
from lab.markdown import table


@dataclass
class Cost:
    """Cost of a head for one clip."""

    head: int  # parameters of the head
    total: int  # parameters of the complete model
    passes: int  # sequential passes through the head per decoding iteration
    flops: float  # floating-point operations of the head


def cost(spec: ImpactSpec, decoding: DecodingConfig) -> Cost:
    """Count the cost of a clip with ``max_patches`` patches decoded in random order, guided in all iterations.

    Nothing is computed. A head's operations are linear in the diffusion steps, so counts for one and two steps suffice.
    """
    import torch

    from impact_pl.models.impact import Impact
    from impact_pl.sampling.schedules import masked_counts

    with torch.device("meta"):
        model = Impact(spec)
    left = masked_counts(spec.model.max_patches, decoding.num_iterations)
    revealed = [before - after for before, after in zip([spec.model.max_patches, *left[:-1]], left, strict=True)]
    flops = sum(
        times * _flops(model.head, spec.model.dim, count, decoding.num_diffusion_steps)
        for count, times in Counter(revealed).items()
        if count
    )
    sizes = [sum(parameter.numel() for parameter in module.parameters()) for module in (model.head, model)]
    return Cost(sizes[0], sizes[1], model.head.num_passes(decoding.num_diffusion_steps), flops)


def _flops(head: Head, dim: int, count: int, num_diffusion_steps: int) -> float:
    """Count the FLOPs of matrix products in one guided iteration that reveals ``count`` patches of a clip."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from impact_pl.models.heads.base import Sampling

    hidden = torch.zeros(1, count, dim, device="meta")
    counted = []
    for steps in (1, 2):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            head.sample(hidden, hidden, Sampling(2.0, steps), torch.Generator())
        counted.append(counter.get_total_flops())
    return counted[0] + (num_diffusion_steps - 1) * (counted[1] - counted[0])


def head_table(models: list[str], heads: list[str]) -> str:
    """Format one row for each of ``heads`` of each model; by default all heads that learn from data."""
    from impact_pl.models.heads import HEADS
    from lab.cards.scaling import planned_spec

    decoding, rows = DecodingConfig(), []
    for name, head in itertools.product(
        models, heads or [name for name, head in HEADS.items() if head.teacher is None]
    ):
        spec = planned_spec(compose("train", TrainConfig, [f"model={name}", f"model.head={head}"]).model)
        found = cost(spec, decoding)
        sizes = f"{found.head / 1e6:.1f}", f"{found.total / 1e6:.1f}"
        rows.append([name, f"`{head}`", *sizes, str(found.passes), f"{found.flops / 1e12:.3f}"])
    columns = ["model", "head", "head, M", "all, M", "passes in sequence, per iteration", "head's TFLOP per clip"]
    return table(columns, rows, num_text=2)


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m lab.cards.head_table", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--models", nargs="+", default=["nano", "base", "large"], help="names under conf/model")
    parser.add_argument("--heads", nargs="+", default=[], help="values of model.head (default: all but consistency)")
    arguments = parser.parse_args(argv)
    print(head_table(arguments.models, arguments.heads))


if __name__ == "__main__":
    main()
