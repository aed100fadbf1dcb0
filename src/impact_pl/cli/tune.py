"""`impact tune`: make a model your own, from a folder of recordings."""

import argparse
import shlex
import sys

from impact_pl.cli import options
from impact_pl.errors import CONTINUES, user_errors

DESCRIPTION = """Tune a model to your own recordings, and see what came of it.

The recordings are cut at silences, cleaned, partly held out and encoded. The training mixes in sounds of the starting
model, so that it keeps what it can do, and keeps the step with the lowest held-out loss. runs/NAME gets model/, with a
card, and tune.html: before and after, what is recognised, whether it copies. The same command continues an interrupted
tuning."""


def build_parser() -> argparse.ArgumentParser:
    parser = options.parser_of("impact tune", DESCRIPTION)
    parser.epilog = (
        "examples:\n  impact tune my_sounds --name mine\n"
        "  impact tune my_sounds --captions words.csv --from runs/mine/model --name better --minutes 20\n"
        '  impact generate "a snare drum" -o snare.wav --model runs/mine/model'
    )
    add = parser.add_argument
    add("folder", help="folder of recordings: WAV, FLAC, OGG, MP3; at least 5 clips, better 50")
    add("--name", required=True, help="name of the new model; everything is written to RUNS/NAME")
    add(
        "--captions",
        metavar="FILE",
        help=".csv or .jsonl with `file` and `caption`, optional `licence`, `source`, `split` (default: captions.csv "
        "in the folder; a file without caption is described by its name in words)",
    )
    add("--from", dest="source", default="builtin", help="builtin (default), a model folder, or hub:ID")
    add("--minutes", type=options.minutes, default=45.0, help="time for all of it, about (default: %(default)g)")
    add("--steps", type=options.positive_int, help="training steps (default: by the number of clips and --minutes)")
    add(
        "--replay",
        default="model",
        metavar="WHAT",
        help="against forgetting: model (sounds that it makes itself, the default), none, or a folder of latents from "
        "impact precompute",
    )
    add(
        "--lora",
        type=options.positive_int,
        default=0,
        metavar="RANK",
        help="train adapters of this rank instead of all weights, for large models (extra `tune`); 8 to 32 are usual",
    )
    add("--licence", default="", help="licence of your recordings, for the card; a column `licence` takes precedence")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (default)")
    add("--seed", type=options.seed, default=0, help="default: %(default)s")
    add("--runs-dir", default="runs", metavar="RUNS", help="default: %(default)s")
    return parser


@user_errors(interrupted=CONTINUES)
def main(argv: list[str] | None = None) -> None:
    """Run ``impact tune``."""
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(argv)
    from impact_pl.tuning.tune import TuneRequest, tune  # late: --help responds at once

    result = tune(TuneRequest(**vars(args)), _say, shlex.join(["impact", "tune", *argv]))
    if result.page is not None:
        print(f"listen: impact generate CAPTION -o sound.wav --model {result.model}")
    sys.exit(result.exit_code)


def _say(line: str) -> None:
    print(line, flush=True)
