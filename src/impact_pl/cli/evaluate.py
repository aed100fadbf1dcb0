"""`impact evaluate`: compare generated sounds with real ones; write metrics.json and print a table."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from impact_pl.cli import options
from impact_pl.config import PADDINGS
from impact_pl.errors import UserError, user_errors
from impact_pl.partial import write_whole

if TYPE_CHECKING:
    from impact_pl.evaluation.request import EvaluationRequest

PUBLISHED_SETS = {"paper": ("cnn14", "vggish", "clap")}  # the networks of FD, KL and IS; of FAD; of the CLAP score


def build_parser() -> argparse.ArgumentParser:
    parser = options.Parser(
        prog="impact evaluate",
        description="Compare generated sounds with real ones: FD-YAMNet, KL, IS, text relevance, and class accuracy\n"
        "where sounds have labels; or, with the files of the published networks in a folder, FD, KL and IS on CNN14,\n"
        "FAD on VGGish, and the CLAP score.\n"
        "The table also has the real-vs-real baseline, noise, and the baselines that you name.\n"
        "Sounds are matched by name (file stem, record id); with a test list, by the clip that they belong to\n"
        "(a YouTube id, with or without a leading Y and trailing seconds).",
        epilog="examples:\n"
        "  impact evaluate --generated runs/large/generated --reference audiocaps/test --test-list tango_886.csv \\\n"
        "      --metrics paper --weights weights --out metrics.json\n"
        "  impact evaluate --generated runs/demo/generated --reference data/manifest.jsonl --reference-split test \\\n"
        "      --floor data/manifest.jsonl --floor-split train --baseline codec=runs/demo/reconstructed \\\n"
        "      --out metrics.json",
    )
    add = parser.add_argument
    add("--generated", type=Path, required=True, metavar="DIR", help="folder of generated sounds")
    add("--reference", type=Path, required=True, metavar="PATH", help="real sounds: a folder or a manifest .jsonl")
    add("--reference-split", metavar="SPLIT", help="use only this split of a reference manifest")
    add(
        "--floor",
        type=Path,
        metavar="PATH",
        help="other real sounds, for the floor (default: spare reference sounds)",
    )
    add("--floor-split", metavar="SPLIT", help="use only this split of a floor manifest")
    add("--baseline", action="append", default=[], metavar="NAME=DIR", help="another row, e.g. codec=DIR; may repeat")
    add(
        "--test-list",
        type=Path,
        metavar="FILE",
        help="the clips to compare, all of them and no others, and their captions: a published list (.csv, .tsv)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--metrics", choices=["paper"], help="paper: the networks of published tables, cnn14,vggish,clap"
    )
    which.add_argument(
        "--networks",
        type=options.names,
        metavar="NAMES",
        help="yamnet (default), cnn14, vggish, clap, passt, separated by commas",
    )
    add("--weights", type=Path, metavar="DIR", help="folder with the published networks' files (docs/parity.md)")
    add(
        "--captions",
        type=Path,
        metavar="JSONL",
        help="captions, and optionally labels, by id or file (default: captions of the generated folder's "
        "generated.jsonl, then of the reference manifest; labels of the latter)",
    )
    add("--text-encoder", default="minilm", help="for text relevance; none: skip it (default: %(default)s)")
    add("--unpaired", action="store_true", help="names do not match: skip KL, cosine and top-1")
    add(
        "--duration",
        type=options.seconds,
        metavar="S",
        help="fit every sound to S seconds (default: the longest generated sound)",
    )
    add(
        "--padding",
        choices=PADDINGS,
        default="silence",
        help="padding of short sounds, real or not (default: %(default)s)",
    )
    add(
        "--num-samples",
        type=options.positive_int,
        metavar="N",
        help="sounds per row (default: as many as every row has)",
    )
    add(
        "--seed",
        type=options.seed,
        default=0,
        help="for the subset, the noise and the bootstrap (default: %(default)s)",
    )
    add("--out", type=Path, metavar="JSON", help="write all results to this file")
    add("--cache", type=Path, metavar="DIR", help="cache features in this folder, by content")
    add("--threads", type=options.positive_int, default=1, help="for the network (default: %(default)s)")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Run ``impact evaluate``."""
    compare(build_parser().parse_args(argv))


def compare(args: argparse.Namespace) -> None:
    """Compute every requested metric, write --out and print a table."""
    from impact_pl.evaluation.evaluate import evaluate  # imported late, so that --help responds at once
    from impact_pl.evaluation.networks import network_classes
    from impact_pl.evaluation.request import choose_sounds

    names = PUBLISHED_SETS[args.metrics] if args.metrics else args.networks or ["yamnet"]
    classes = network_classes(names, args.weights)
    request = make_request(args)
    choose_sounds(request, [metric for each in classes for metric in each.metrics])  # fails before loading
    encoder = None
    if "yamnet" in names and args.text_encoder != "none" and request.captions:
        from impact_pl.text_encoders.registry import load_text_encoder

        encoder = load_text_encoder(args.text_encoder)
    networks, checksums = load_networks(names, args.weights, args.threads)
    result = evaluate(request, networks, encoder, args.cache, show_progress)
    for name, files in checksums.items():
        result["networks"][name]["weights_sha256"] = files
    result["generated"], result["reference"] = str(args.generated), str(args.reference)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(args.out, json.dumps(result, indent=1) + "\n")
    print_table(result)


def make_request(args: argparse.Namespace) -> "EvaluationRequest":
    """Read every set that the options name, restricted to the test list if there is one."""
    from impact_pl.data.lists import read_clip_list, restrict
    from impact_pl.evaluation.request import EvaluationRequest
    from impact_pl.evaluation.sounds import find_captions, find_labels, list_sounds

    generated, reference = list_sounds(args.generated), list_sounds(args.reference, args.reference_split)
    baselines = {name: list_sounds(folder) for name, folder in parse_baselines(args.baseline).items()}
    clips = None
    if args.test_list is None:
        captions = find_captions(args.captions, args.generated, reference)
    elif args.captions is not None:
        raise UserError("--captions and --test-list both name captions: leave one out")
    else:
        clips = read_clip_list(args.test_list)
        captions = clips.captions
        generated = restrict(generated, clips, f"--generated {args.generated}", exactly=True)
        reference = restrict(reference, clips, f"--reference {args.reference}", exactly=False)
        baselines = {name: restrict(sounds, clips, f"--baseline {name}", False) for name, sounds in baselines.items()}
    return EvaluationRequest(
        generated=generated,
        reference=reference,
        floor=list_sounds(args.floor, args.floor_split) if args.floor else {},
        baselines=baselines,
        captions=captions,
        labels=find_labels(args.captions, reference),
        paired=not args.unpaired,
        duration=args.duration,
        padding=args.padding,
        num_samples=args.num_samples,
        seed=args.seed,
        test_list=clips,
    )


def load_networks(names: Sequence[str], weights: Path | None, num_threads: int) -> tuple[list, dict[str, dict]]:
    """Load the networks, and the checksums of the published ones' files.

    Raises:
        UserError: A name is unknown, --weights is missing, or a file is missing or damaged.
    """
    from impact_pl.evaluation.evaluate import weights_checksums
    from impact_pl.evaluation.networks import load_network

    networks, checksums = [], {}
    for name in names:
        network = load_network(name, weights, num_threads)
        networks.append(network)
        if network.checkpoint is not None and weights is not None:
            checksums[name] = weights_checksums(network.checkpoint, weights)
    return networks, checksums


def parse_baselines(values: list[str]) -> dict[str, Path]:
    """Parse ``["codec=runs/codec"]`` into names and folders."""
    baselines: dict[str, Path] = {}
    for value in values:
        name, separator, folder = value.partition("=")
        if not (name and separator and folder):
            raise UserError(f"--baseline {value!r}: expected NAME=DIR, for example codec=runs/demo/codec")
        if name in baselines or name in ("real", "generated", "noise", "reference"):
            raise UserError(f"--baseline {value!r}: the name {name!r} is taken by another row")
        baselines[name] = Path(folder)
    return baselines


def show_progress(what: str, done: int, total: int) -> None:
    """Count up on one line in a terminal; print one line per set in a log."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done}/{total} sounds", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total:
        print(f"{what}: {total} sounds", file=sys.stderr, flush=True)


def print_table(result: dict) -> None:
    """Print the table and its notes."""
    from rich.console import Console
    from rich.table import Table

    from impact_pl.evaluation.report.tables import columns_of

    columns = columns_of(result["rows"])
    clips = result["test_list"]["name"] if result["test_list"] else "no test list"
    title = f"{clips}, N = {result['num_samples']} sounds, seed {result['seed']}"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("")
    for heading, _, _ in columns.values():
        table.add_column(heading, justify="right")
    for row in result["rows"]:
        cells = ["–" if row.get(key) is None else f"{row[key]:.{digits}f}" for key, (_, digits, _) in columns.items()]
        style = "bold" if row["name"] == "generated" else None
        table.add_row("real (floor)" if row["name"] == "real" else row["name"], *cells, style=style)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for note in result["notes"]:
        console.print(f"[dim]· {note}[/dim]", soft_wrap=True, highlight=False)
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
