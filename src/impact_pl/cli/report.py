"""`impact report`: write sounds, metrics and losses of a run as one HTML page."""

import argparse
from pathlib import Path

from impact_pl.cli.facts import generation_facts, model_facts
from impact_pl.cli.options import Parser
from impact_pl.errors import UserError, user_errors

STAGES = {"pretrain": "Stage 1: unconditional", "text": "Stage 2: text-conditional", "distill": "One-step head"}
FOLDERS = {
    "real": "real",
    "reconstructed": "reconstructed",
    "generated": "generated",
    "untrained": "generated_untrained",
}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="impact report",
        description="Write one self-contained HTML page: sounds with spectrograms, metrics, loss curves, commands.",
        epilog="--run DIR uses what exists there: the folders real, reconstructed, generated, generated_untrained,\n"
        "metrics.json, commands.txt, pretrain/metrics.csv, text/metrics.csv, text/model/config.json.\n"
        "Every other option overrides the path of one of them, which must then exist.\n\n"
        "example:\n  impact report --run runs/demo --out runs/demo/report.html",
    )
    add = parser.add_argument
    add("--run", type=Path, metavar="DIR", help="a folder in the layout below")
    add("--out", type=Path, metavar="HTML", help="the page (default: report.html in the run's folder)")
    add("--title", default="IMPACT: sounds from captions")
    for kind in FOLDERS:
        add(f"--{kind}", type=Path, metavar="DIR", help=f"folder of {kind} sounds, matched by file name")
    add("--captions", type=Path, metavar="JSONL", help="captions (default: generated.jsonl of the generated folder)")
    add("--rows", type=Path, metavar="JSONL", help="instead of folders: lines of {caption, real, generated, ...}")
    add("--limit", type=int, default=12, help="captions on the page (default: %(default)s)")
    add("--seed", type=int, default=0, help="for the choice of captions, made without listening to them")
    add("--metrics", type=Path, metavar="JSON", help="output of impact evaluate")
    add("--ratings", type=Path, metavar="JSON", help="output of impact listening ratings --out")
    add("--name", default="this model", help="name of this model in the published table and ratings (%(default)s)")
    add("--losses", action="append", default=[], metavar="NAME=CSV", help="metrics.csv of a stage; may repeat")
    add("--commands", type=Path, metavar="TXT", help="the commands that produced the results")
    add("--model", type=Path, metavar="DIR", help="exported model folder to describe")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Run ``impact report``."""
    args = build_parser().parse_args(argv)
    if args.run is None and args.out is None:
        raise UserError("give --run DIR, or --out HTML and the inputs")
    if args.run is not None and not args.run.is_dir():
        raise UserError(f"{args.run}: no such run folder")
    from impact_pl.evaluation.report import Report, read_caption_sounds, write_report  # late: --help responds at once
    from impact_pl.evaluation.results import read_metrics, read_ratings_result

    ratings, metrics, commands = (
        find(args, "ratings", "ratings.json"),
        find(args, "metrics", "metrics.json"),
        find(args, "commands", "commands.txt"),
    )
    report = Report(
        title=args.title,
        captions=read_caption_sounds(args.rows) if args.rows else choose_rows(args),
        metrics=read_metrics(metrics) if metrics else None,
        ratings=read_ratings_result(ratings) if ratings else None,
        own_name=args.name,
        losses=find_losses(args),
        commands=commands.read_text(encoding="utf-8") if commands else "",
        facts=model_facts(find(args, "model", "text/model/config.json"))
        | generation_facts(find_folder(args, "generated")),
    )
    out = args.out or args.run / "report.html"
    size = write_report(report, out)
    print(f"{out}: {len(report.captions)} captions, {size / 1e6:.1f} MB")


def find(args: argparse.Namespace, option: str, place: str) -> Path | None:
    """Return the path of an option, else the default ``place`` in the run's folder if it exists."""
    given: Path | None = getattr(args, option)
    if given is not None:
        if not given.exists():
            raise UserError(f"--{option} {given}: does not exist")
        return given
    found = args.run / place if args.run else None
    return found if found is not None and found.exists() else None


def find_folder(args: argparse.Namespace, kind: str) -> Path | None:
    return find(args, kind, FOLDERS[kind])


def choose_rows(args: argparse.Namespace) -> list:
    """Choose captions that have a sound in every folder: a seeded draw, sorted by name."""
    from impact_pl.evaluation.report import choose_captions
    from impact_pl.evaluation.sounds import list_sounds, read_captions

    folders = {kind: folder for kind in FOLDERS if (folder := find_folder(args, kind)) is not None}
    if not folders:
        return []
    if args.limit < 1:
        raise UserError(f"--limit {args.limit}: at least 1")
    sounds = {kind: list_sounds(folder) for kind, folder in folders.items()}
    written = folders["generated"] / "generated.jsonl" if "generated" in folders else None
    captions_file = args.captions or (written if written is not None and written.is_file() else None)
    return choose_captions(sounds, read_captions(captions_file) if captions_file else {}, args.limit, args.seed)


def find_losses(args: argparse.Namespace) -> dict[str, Path]:
    losses = {}
    for value in args.losses:
        name, separator, path = value.rpartition("=")
        if not (separator and name and path):
            raise UserError(
                f"--losses {value!r}: expected NAME=CSV, for example 'Stage 1=runs/demo/pretrain/metrics.csv'"
            )
        losses[name] = Path(path)
    if not losses and args.run is not None:
        found = {name: args.run / stage / "metrics.csv" for stage, name in STAGES.items()}
        losses = {name: path for name, path in found.items() if path.is_file()}
    return losses
