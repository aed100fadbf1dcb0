"""`impact verify`: are the shards of a folder complete, undamaged, and made by the codec that is here?"""

import argparse
from pathlib import Path

from impact_pl.config import PrecomputeConfig
from impact_pl.errors import user_errors


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="impact verify",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Read every byte of a folder of shards. Finds flipped bytes, missing, truncated and foreign\n"
        "files, an index that disagrees, and shards of another codec or text encoder than the one that is here.",
        epilog="example:\n  impact verify latents --manifest data/mine/manifest.jsonl",
    )
    parser.add_argument("out", type=Path, metavar="FOLDER", help="the `out` folder of impact precompute")
    parser.add_argument("--manifest", metavar="FILE", help="compare with what the shards were made from")
    parser.add_argument("--codec", help="where the codec is now, if not where the shards say")
    parser.add_argument("--text-encoder", help="where the text encoder is now")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Run ``impact verify``."""
    arguments = build_parser().parse_args(argv)
    given = {key: value for key in ("manifest", "codec", "text_encoder") if (value := getattr(arguments, key))}
    from impact_pl.precompute.verify import verify  # late: --help answers at once

    verify(PrecomputeConfig(out=str(arguments.out), **given), set(given))
