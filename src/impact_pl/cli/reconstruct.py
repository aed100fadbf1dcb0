"""`impact reconstruct`: write a manifest's clips and their codec reconstructions."""

import argparse
from pathlib import Path

from impact_pl.cli import options
from impact_pl.config import PADDINGS
from impact_pl.errors import user_errors


def build_parser() -> argparse.ArgumentParser:
    parser = options.Parser(
        prog="impact reconstruct",
        description="Write a manifest's captioned clips and their codec reconstructions. The codec's loss limits the\n"
        "quality of every generated sound. Existing files are kept.",
        epilog="example:\n  impact reconstruct --manifest data/mine/manifest.jsonl --split valid --duration 5.12 \\\n"
        "      --real runs/mine/real --reconstructed runs/mine/reconstructed",
    )
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.jsonl")
    parser.add_argument("--split", help="only the records of this split")
    parser.add_argument("--limit", type=options.positive_int, help="choose this many clips at random")
    parser.add_argument("--seed", type=options.seed, default=0, help="for that choice (default: %(default)s)")
    parser.add_argument("--duration", type=options.seconds, required=True, help="seconds; shorter clips are padded")
    parser.add_argument("--padding", choices=PADDINGS, default="silence", help="padding (default: silence)")
    parser.add_argument("--real", type=Path, required=True, help="folder for the original clips (.flac)")
    parser.add_argument("--reconstructed", type=Path, help="folder for the codec's reconstructions (.flac)")
    parser.add_argument("--codec", default="builtin", help="codec name or folder (default: builtin)")
    parser.add_argument("--vocoder", help=options.VOCODER)
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Run ``impact reconstruct``."""
    args = build_parser().parse_args(argv)
    from impact_pl.codecs.registry import load_codec  # imported late, so that --help responds at once
    from impact_pl.data.manifest import file_stems, read_manifest
    from impact_pl.evaluation.reconstruction import choose_records, write_clip
    from impact_pl.progress import progress

    records = choose_records(read_manifest(args.manifest), args.split, args.limit, args.seed)
    file_stems([record.id for record in records])  # checks for duplicate names
    codec = load_codec(args.codec, vocoder=args.vocoder)
    with progress("reconstructing", len(records)) as bar:
        for record in records:
            write_clip(record, codec, args.duration, args.reconstructed, args.real, args.padding)
            bar.advance()
    print(f"{len(records)} clips in {args.real}" + (f" and {args.reconstructed}" if args.reconstructed else ""))
