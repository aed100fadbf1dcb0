"""`python -m lab.ablation.speed`: measure time and memory of generating a batch of sounds.

The time covers everything from captions to waveforms, but not loading. Memory is what generation needs in addition to
the libraries: the process's peak minus its value before the model was loaded, or a GPU's peak.
"""

import argparse
import functools
import json
import resource
import sys
from pathlib import Path

from impact_pl.errors import user_errors
from impact_pl.partial import write_whole

CAPTION = "a dog barks while rain falls on a roof"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.ablation.speed", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--decoding", default="{}", help="fields of DecodingConfig as JSON")
    parser.add_argument("--duration", type=float, required=True, help="seconds of each sound")
    parser.add_argument("--batch-size", type=int, default=8, help="sounds at once (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="after uncounted ones: 1, with CUDA 2 (%(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="JSON: seconds of each repeat, and memory in MB")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    import torch

    from impact_pl.inference.pipeline import ImpactPipeline
    from lab.ablation.plan import decoding_config
    from lab.benchmark.timing import num_warm_ups, seconds_of

    before = peak_memory()
    pipeline = ImpactPipeline.from_pretrained(args.model, args.device)
    decoding = decoding_config(json.loads(args.decoding))
    device = torch.device(args.device)
    captions, uncounted = [CAPTION] * args.batch_size, num_warm_ups(device)

    def generate(seed: int) -> None:
        pipeline(captions, duration=args.duration, seed=seed, decoding=decoding)

    seconds = [seconds_of(functools.partial(generate, seed)) for seed in range(args.repeats + uncounted)]
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory() - before
    measured = {"latency": seconds[uncounted:], "memory": memory / 1e6, "threads": torch.get_num_threads()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.out, json.dumps(measured) + "\n")


def peak_memory() -> int:
    """Return the peak resident memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
