"""`python -m lab.cards.scaling_table`: memory and communication per rank, as Markdown (docs/scaling.md)."""

import argparse
import itertools

from impact_pl.cli.compose import compose
from impact_pl.config import TrainConfig
from impact_pl.errors import user_errors
from impact_pl.models.spec import ImpactSpec
from lab.markdown import table

NUM_FRAMES = 256  # 10.24 s of either codec
GIB = 2**30


def state_table(models: list[str], ranks: list[int]) -> str:
    """Memory that does not depend on the batch, and bytes sent per step."""
    from lab.cards import scaling

    rows = []
    for name in models:
        sizes = scaling.count_parameters(spec_of(name))
        for strategy in scaling.STRATEGIES:
            parts = [scaling.memory(sizes, strategy, n) for n in ranks]
            total = ", ".join(f"{sum(part.values()) / GIB:.2f}" for part in parts)
            sent = ", ".join(f"{scaling.sent(sizes, strategy, n) / GIB:.2f}" for n in ranks)
            rows.append(
                [f"{name}, {sizes.total / 1e6:.0f} M", strategy, total, f"{parts[-1]['gathered'] / GIB:.2f}", sent]
            )
    counts = ", ".join(map(str, ranks))
    columns = [
        "model",
        "strategy",
        f"GiB per rank on {counts}",
        "of it gathered to compute",
        "GiB sent per step and rank",
    ]
    return table(columns, rows, num_text=2)


def activation_table(models: list[str], precisions: list[str]) -> str:
    """Memory that grows with the batch."""
    from lab.cards import scaling

    rows = []
    for name, precision in itertools.product(models, precisions):
        kept = scaling.activations(spec_of(name), NUM_FRAMES, precision)
        rows.append([name, precision, f"{kept.clip / GIB:.2f}", f"{kept.once / GIB:.2f}"])
    return table(["model", "precision", "GiB per clip", "once, GiB"], rows, num_text=2)


def spec_of(model: str) -> ImpactSpec:
    """``conf/model/<model>.yaml`` with the latents and text that it is for."""
    from lab.cards.scaling import planned_spec

    return planned_spec(compose("train", TrainConfig, [f"model={model}"]).model)


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m lab.cards.scaling_table", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--models", nargs="+", default=["base", "large", "3b"], help="names under conf/model")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 8, 64], help="numbers of processes")
    parser.add_argument("--activations", nargs="*", metavar="PRECISION", default=[], help="32-true, bf16-mixed")
    arguments = parser.parse_args(argv)
    if min(arguments.ranks) < 1:
        parser.error("--ranks: 1 or more")
    print(state_table(arguments.models, arguments.ranks))
    if arguments.activations:
        print("\n" + activation_table(arguments.models, arguments.activations))


if __name__ == "__main__":
    main()
