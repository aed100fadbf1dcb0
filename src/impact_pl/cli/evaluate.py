"""`impact-evaluate`: generated sounds against real ones -> metrics.json and a table."""

import argparse
import json
import sys
from pathlib import Path

from impact_pl.cli import options
from impact_pl.errors import user_errors

COLUMNS = {  # key in a row -> heading, digits
    "fd_yamnet": ("FD-YAMNet ↓", 1),
    "kl": ("KL ↓", 2),
    "inception_score": ("IS ↑", 2),
    "text_relevance": ("relevance ↑", 3),
    "text_relevance_shuffled": ("(shuffled)", 3),
    "embedding_cosine": ("cosine ↑", 3),
    "top1_agreement": ("top-1 ↑", 2),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="impact-evaluate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compare generated sounds with real ones: FD-YAMNet, KL, IS, text relevance.\n"
        "Printed beside them: the real-against-real floor, noise, and the baselines that you give.\n"
        "Sounds belong together when their names (file stem, record id) are equal.",
        epilog="example:\n"
        "  impact-evaluate --generated runs/demo/generated --reference data/manifest.jsonl --reference-split test \\\n"
        "      --floor data/manifest.jsonl --floor-split train --baseline codec=runs/demo/codec --out metrics.json",
    )
    add = parser.add_argument
    add("--generated", type=Path, required=True, metavar="DIR", help="folder of generated sounds")
    add("--reference", type=Path, required=True, metavar="PATH", help="real sounds: a folder or a manifest .jsonl")
    add("--reference-split", metavar="SPLIT", help="of a reference manifest: only this split")
    add("--floor", type=Path, metavar="PATH", help="other real sounds, for the floor (default: half the reference)")
    add("--floor-split", metavar="SPLIT", help="of a floor manifest: only this split")
    add("--baseline", action="append", default=[], metavar="NAME=DIR", help="another row, e.g. codec=DIR; may repeat")
    add(
        "--captions",
        type=Path,
        metavar="JSONL",
        help="captions by id or file (default: generated.jsonl of the generated folder, then the reference manifest)",
    )
    add("--text-encoder", default="minilm", help="for text relevance; none: leave it out (default: %(default)s)")
    add("--unpaired", action="store_true", help="names do not match: no KL, cosine and top-1")
    add(
        "--duration",
        type=options.seconds,
        metavar="S",
        help="fit every sound to S seconds (default: the longest generated one)",
    )
    add(
        "--num-samples", type=options.positive_int, metavar="N", help="sounds a row (default: as many as every row has)"
    )
    add(
        "--seed", type=options.seed, default=0, help="of the subset, the noise and the bootstrap (default: %(default)s)"
    )
    add("--out", type=Path, metavar="JSON", help="write everything there")
    add("--cache", type=Path, metavar="DIR", help="keep YAMNet features there and find them again by content")
    add("--threads", type=options.positive_int, default=1, help="of the network (default: %(default)s)")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from impact_pl.evaluation.evaluate import EvaluationRequest, evaluate  # late: --help answers at once
    from impact_pl.evaluation.features import YamNet
    from impact_pl.evaluation.sounds import list_sounds

    reference = list_sounds(args.reference, args.reference_split)
    request = EvaluationRequest(
        generated=list_sounds(args.generated),
        reference=reference,
        floor=list_sounds(args.floor, args.floor_split) if args.floor else {},
        baselines={name: list_sounds(folder) for name, folder in parse_baselines(args.baseline).items()},
        captions=find_captions(args.captions, args.generated, reference),
        paired=not args.unpaired,
        duration=args.duration,
        num_samples=args.num_samples,
        seed=args.seed,
    )
    encoder = None
    if args.text_encoder != "none" and request.captions:
        from impact_pl.text import load_text_encoder

        encoder = load_text_encoder(args.text_encoder)
    result = evaluate(request, YamNet(args.threads), encoder, args.cache, show_progress)
    result["generated"], result["reference"] = str(args.generated), str(args.reference)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_table(result)


def parse_baselines(values: list[str]) -> dict[str, Path]:
    """``["codec=runs/codec"]`` -> names and folders."""
    baselines: dict[str, Path] = {}
    for value in values:
        name, separator, folder = value.partition("=")
        if not (name and separator and folder):
            raise ValueError(f"--baseline {value!r}: expected NAME=DIR, for example codec=runs/demo/codec")
        if name in baselines or name in ("real", "generated", "noise"):
            raise ValueError(f"--baseline {value!r}: the name {name!r} is taken by another row")
        baselines[name] = Path(folder)
    return baselines


def find_captions(given: Path | None, generated: Path, reference: dict) -> dict[str, str]:
    """From --captions; else from what generation wrote beside the sounds; else from the reference's manifest."""
    from impact_pl.evaluation.sounds import read_captions

    written = generated / "generated.jsonl"
    if given is not None or written.is_file():
        return read_captions(given or written)
    return {name: record.caption for name, record in reference.items() if record.caption}


def show_progress(what: str, done: int, total: int) -> None:
    """A line that counts up in a terminal; one line a set in a log."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done}/{total} sounds", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total:
        print(f"{what}: {total} sounds", file=sys.stderr, flush=True)


def print_table(result: dict) -> None:
    """The rows on stdout, then what a reader has to know."""
    from rich.console import Console
    from rich.table import Table

    columns = {key: look for key, look in COLUMNS.items() if any(row.get(key) is not None for row in result["rows"])}
    title = f"N = {result['num_samples']} sounds of {result['duration_seconds']:.2f} s, seed {result['seed']}"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("")
    for heading, _ in columns.values():
        table.add_column(heading, justify="right")
    for row in result["rows"]:
        cells = ["–" if row.get(key) is None else f"{row[key]:.{digits}f}" for key, (_, digits) in columns.items()]
        style = "bold" if row["name"] == "generated" else None
        table.add_row("real (floor)" if row["name"] == "real" else row["name"], *cells, style=style)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for note in result["notes"]:
        console.print(f"[dim]· {note}[/dim]", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
