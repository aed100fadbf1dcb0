"""`impact listening`: write a listening test as one page; `impact listening ratings`: summarise its results."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from impact_pl.cli import options
from impact_pl.errors import UserError, user_errors
from impact_pl.partial import write_whole

if TYPE_CHECKING:
    from impact_pl.data.lists import Sounds


def build_parser() -> argparse.ArgumentParser:
    parser = options.Parser(
        prog="impact listening",
        description="Write one HTML page that plays the clips of all systems, unnamed and shuffled, asks for REL and\n"
        "OVL from 1 to 5, and exports a CSV. key.json next to it maps clips to systems; keep it secret.\n"
        "See `impact listening ratings --help` for the means of exported ratings with confidence intervals.",
        epilog="example:\n"
        "  impact listening --system real=audiocaps/test --system base=runs/base/generated \\\n"
        "      --captions tango_886.csv --out listening --num-samples 30 --seed 1",
    )
    add = parser.add_argument
    add("--system", action="append", required=True, metavar="NAME=PATH", help="a folder or manifest; may repeat")
    add(
        "--captions",
        type=Path,
        metavar="FILE",
        help="a manifest, generated.jsonl, or a test list (default: those of the first system that has captions)",
    )
    add("--out", type=Path, required=True, metavar="PATH", help="the page (.html), or a folder for listening.html")
    add("--num-samples", type=options.positive_int, default=30, metavar="N", help="captions (default: %(default)s)")
    add("--seed", type=options.seed, default=0, help="for the choice of captions (default: %(default)s)")
    add("--title", default="Listening test", help="title of the page, visible to raters (default: %(default)s)")
    return parser


def build_ratings_parser() -> argparse.ArgumentParser:
    parser = options.Parser(
        prog="impact listening ratings",
        description="Compute the means of the ratings, with 95 % intervals over raters and captions.",
        epilog="example:\n  impact listening ratings --key listening/key.json ratings-*.csv --out ratings.json",
    )
    parser.add_argument("--key", type=Path, required=True, metavar="JSON", help="key.json of the test")
    parser.add_argument("csv", type=Path, nargs="+", metavar="CSV", help="files exported by the raters")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the means to this file")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Run ``impact listening`` or ``impact listening ratings``."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["ratings"]:
        rated = build_ratings_parser().parse_args(argv[1:])
        rate(rated.key, rated.csv, rated.out)
    else:
        make_test(build_parser().parse_args(argv))


def make_test(args: argparse.Namespace) -> None:
    from impact_pl.data.lists import by_clip, read_clip_list
    from impact_pl.evaluation.listening import write_test  # imported late, so that --help responds at once
    from impact_pl.evaluation.sounds import list_sounds, read_captions

    paths = parse_systems(args.system)
    systems = {name: list_sounds(path) for name, path in paths.items()}
    if args.captions is None:
        captions = find_captions(paths, systems)
    elif args.captions.suffix.lower() == ".jsonl":
        captions = read_captions(args.captions)
    else:
        captions = read_clip_list(args.captions).captions
        systems = {name: by_clip(sounds, f"--system {name}") for name, sounds in systems.items()}
    page = args.out if args.out.suffix.lower() == ".html" else args.out / "listening.html"
    key = write_test(systems, captions, page, args.num_samples, args.seed, args.title)
    size = page.stat().st_size / 1e6
    print(f"{page}: {len(key.items)} clips of {len(systems)} systems, {size:.1f} MB; send this file to the raters")
    print(f"{page.with_name('key.json')}: maps clips to systems; keep it secret")


def parse_systems(values: list[str]) -> dict[str, Path]:
    """Parse ``["base=runs/base/generated"]`` into names and folders or manifests."""
    paths: dict[str, Path] = {}
    for value in values:
        name, separator, path = value.partition("=")
        if not (name and separator and path) or name in paths:
            raise UserError(
                f"--system {value!r}: expected NAME=PATH, each name once, for example base=runs/base/generated"
            )
        paths[name] = Path(path)
    return paths


def find_captions(paths: dict[str, Path], systems: "dict[str, Sounds]") -> dict[str, str]:
    """Find captions by sound name in generated.jsonl next to the first system's sounds, or in its manifest."""
    from impact_pl.evaluation.sounds import read_captions

    for name, path in paths.items():
        if (written := path / "generated.jsonl").is_file():
            return read_captions(written)
        if captions := {stem: record.caption for stem, record in systems[name].items() if record.caption}:
            return captions
    raise UserError("no system's folder has a generated.jsonl, and none is a manifest: give --captions")


def rate(key_file: Path, ratings: list[Path], out: Path | None) -> None:
    """Print each system's mean ratings, and write them to ``out``."""
    from rich.console import Console
    from rich.table import Table

    from impact_pl.evaluation.listening import CRITERIA, FEWEST_RATERS, read_key, read_ratings, summarise

    key = read_key(key_file)
    result = summarise(read_ratings(ratings, key), key)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, json.dumps(result, indent=1) + "\n")
    table = Table(title=f"{result['num_raters']} raters, {result['num_samples']} captions", title_justify="left")
    table.add_column("")
    for criterion in CRITERIA:
        table.add_column(f"{criterion} ↑", justify="right")
    for row in result["rows"]:
        cells = [
            f"{row[name]:.2f} ({row[f'{name}_interval'][0]:.2f} to {row[f'{name}_interval'][1]:.2f})"
            for name in CRITERIA
        ]
        table.add_row(row["name"], *cells)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    note = "95 % intervals: raters and captions drawn again (pigeonhole bootstrap)"
    console.print(f"[dim]· {note}[/dim]", highlight=False)
    if result["num_raters"] < FEWEST_RATERS:
        print(f"warning: {result['num_raters']} raters; published tests have at least {FEWEST_RATERS}", file=sys.stderr)
