"""Command line of `python -m lab.benchmark`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from impact_pl.cli import options
from impact_pl.config import DECODING_CHOICES, PRESETS, DecodingConfig

SUMMARIES = {
    "latency": "seconds of a generation, and of its parts",
    "throughput": "clips per second by batch",
    "scaling": "seconds by audio duration",
    "training": "clips per second, memory and utilization of a training step, and what each optimization adds",
    "reading": "the training's DataLoader against simpler ways to read the same shards",
    "peers": "other text-to-audio systems in their published sizes, and ours",
    "document": "records (what --json wrote) as a Markdown page with plots",
}
BATCHES = {"latency": [1], "throughput": [1, 2, 4, 8, 16, 32, 64], "scaling": [1, 8], "peers": [1, 8]}
ITERATIONS = {"latency": [4, 8, 16, 32, 64], "throughput": [64], "scaling": [64], "peers": [64]}
DURATIONS = [5.0, 10.24, 30.0, 60.0, 120.0, 300.0]
DURATION = 10.24  # seconds, as in the paper and the other systems
DEFAULTS = DecodingConfig()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.benchmark",
        description="Measure how fast generation, training and data loading are on this machine.",
        epilog="example: python -m lab.benchmark latency --model base --iterations 16 64 --json latency.json",
    )
    parsers = parser.add_subparsers(dest="part", required=True)
    for part in ("latency", "throughput", "scaling", "peers"):
        add_generation(parsers.add_parser(part, help=SUMMARIES[part]), part)
    add_training(parsers.add_parser("training", help=SUMMARIES["training"]))
    add_reading(parsers.add_parser("reading", help=SUMMARIES["reading"]))
    document = parsers.add_parser("document", help=SUMMARIES["document"])
    document.add_argument("records", type=Path, nargs="+", help="files that --json wrote")
    document.add_argument("--out", type=Path, default=Path("performance.md"), help="(default: %(default)s)")
    return parser


def add_common(parser: argparse.ArgumentParser, device: bool = True) -> Callable[..., Any]:
    """Add options shared by all parts; without ``device``, measurements run on the CPU."""
    add = parser.add_argument
    if device:
        add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    else:
        parser.set_defaults(device="cpu")
    add("--threads", type=options.positive_int, help="of the CPU (default: PyTorch's choice)")
    add("--repeats", type=options.positive_int, default=3, help="of what takes less than 5 s (default: %(default)s)")
    add("--json", type=Path, help="write the record there, each row when it is complete")
    return add


def add_set(add: Callable[..., Any]) -> None:
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the named model, as model.head=consistency")


def add_generation(parser: argparse.ArgumentParser, part: str) -> None:
    add = add_common(parser)
    numbers: dict[str, Any] = {"type": options.positive_int, "nargs": "+"}
    add("--model", default="base", help="a name under conf/model (random weights), or a model folder (%(default)s)")
    add_set(add)
    add("--batch", **numbers, default=BATCHES[part], help="clips generated together (default: %(default)s)")
    one = {"nargs": 1} if part in ("throughput", "scaling") else {}  # their tables support one value only
    add("--iterations", **numbers | one, default=ITERATIONS[part], help="decoding iterations (default: %(default)s)")
    add("--diffusion-steps", type=options.positive_int, default=DEFAULTS.num_diffusion_steps, help="(%(default)s)")
    add("--engine", nargs="+", choices=DECODING_CHOICES["engine"], default=["reference", "fused"], help="(%(default)s)")
    add(
        "--precision",
        nargs="+",
        choices=DECODING_CHOICES["precision"],
        default=["32-true", "auto"],
        help="auto: bf16 where the processor computes in it (default: %(default)s)",
    )
    add("--preset", nargs="*", choices=list(PRESETS), default=[], help="these fix iterations, steps and engine")
    add_duration(parser, part)
    if part == "peers":
        add("--systems", nargs="+", default=None, help="(default: all)")
        add("--whole", action="store_true", help="run all steps of a system; else its middle step, times their number")
    if part in ("latency", "throughput"):
        add("--no-codec", action="store_true", help="leave codec and text encoder out")


def add_duration(parser: argparse.ArgumentParser, part: str) -> None:
    """Add durations: several where the cost by duration is measured; other systems have fixed ones."""
    if part == "peers":
        parser.set_defaults(duration=DURATION)
        return
    several, default = ("+", DURATIONS) if part == "scaling" else (None, DURATION)
    help_text = "seconds of sound (default: %(default)s)"
    parser.add_argument("--duration", type=options.seconds, nargs=several, default=default, help=help_text)


def add_training(parser: argparse.ArgumentParser) -> None:
    add = add_common(parser)
    add("--model", default="base", help="a name under conf/model (default: %(default)s)")
    add_set(add)
    add("--batch", type=options.positive_int, default=8, help="clips per step (default: %(default)s)")
    add("--duration", type=options.seconds, default=DURATION, help="seconds of a clip (default: %(default)s)")
    add("--variants", nargs="+", help="by number, from 1 (default: all that the device computes, except the compiled)")


def add_reading(parser: argparse.ArgumentParser) -> None:
    add = add_common(parser, device=False)
    add("--data", type=Path, help="the `out` folder of `impact precompute` (default: random shards)")
    add("--split", default="train")
    add("--workers", type=int, nargs="+", default=[0, 1, 2], help="DataLoader processes to try")
    add("--batch-size", type=options.positive_int, default=16)
    add("--epochs", type=options.positive_int, default=3, help="of the set, in a repeat")
