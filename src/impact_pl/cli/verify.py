"""`impact verify`: check that a folder of shards is complete, undamaged, and made by the installed codec."""

import argparse
from pathlib import Path

from impact_pl.cli.options import Parser
from impact_pl.config import PrecomputeConfig
from impact_pl.errors import user_errors


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="impact verify",
        description="Read every byte of a folder of shards. Finds flipped bytes, missing, truncated and foreign\n"
        "files, an inconsistent index, and shards of a codec or text encoder other than the installed one.",
        epilog="example:\n  impact verify latents --manifest data/mine/manifest.jsonl",
    )
    parser.add_argument("out", type=Path, metavar="FOLDER", help="the `out` folder of impact precompute")
    parser.add_argument("--manifest", metavar="FILE", help="compare with the manifest that the shards were made from")
    parser.add_argument("--codec", help="location of the codec, if it has moved")
    parser.add_argument("--text-encoder", help="location of the text encoder, if it has moved")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Run ``impact verify``."""
    arguments = build_parser().parse_args(argv)
    given = {key: value for key in ("manifest", "codec", "text_encoder") if (value := getattr(arguments, key))}
    from impact_pl.precompute.verify import verify  # imported late, so that --help responds at once

    verify(PrecomputeConfig(out=str(arguments.out), **given), set(given))
