"""`python -m lab.cards.model_table --manifest M --out FOLDER`: evaluate a model, as tables for its model card.

- Ten classes (ESC-10's), 50 clips each: YAMNet's class accuracy, FD-YAMNet to the held-out real clips of the classes.
- The captions of the held-out split: every metric of `impact evaluate`, paired with the real clips of these captions.
- The nearest training clip of each generated sound: whether the model replays what it was trained on.

Each comes with other real sounds at the same N (the real-vs-real baseline), the codec's reconstructions, white noise
and shuffled captions. Writes bars.md and bars.json into the folder, which also keeps the generated sounds,
reconstructions and YAMNet's features, so that the same command continues an interrupted run. Needs a manifest with
class names as labels.
"""

import argparse
import json
from pathlib import Path

from impact_pl.cli import generate, jobs, options
from impact_pl.config import PADDINGS
from impact_pl.errors import UserError, user_errors
from impact_pl.models.spec import BUILTIN, find_model, read_spec


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.cards.model_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python -m lab.cards.model_table --manifest data/mine/manifest.jsonl --split test \\\n"
        "      --out runs/bars -- --iterations 32 --guidance 3",
    )
    add = parser.add_argument
    add("--manifest", type=Path, required=True, help="manifest.jsonl of training and held-out clips")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the tables and for all sounds")
    add("--model", default=BUILTIN, help="model folder (default: builtin)")
    add("--split", default="test", help="of the held-out clips (default: %(default)s)")
    add("--train-split", default="train", help="of the clips that the model was trained on (default: %(default)s)")
    add("--clips", type=options.positive_int, default=50, help="generated for a class (default: %(default)s)")
    add("--limit", type=options.positive_int, help="at most so many held-out captions, drawn with the seed")
    add("--duration", type=options.seconds, default=5.0, help="of every sound, in seconds (default: %(default)s)")
    add(
        "--padding",
        choices=PADDINGS,
        default="silence",
        help="after shorter real clips, as `impact precompute` padded the model's (default: %(default)s)",
    )
    add("--seed", type=options.seed, default=0)
    add("--threads", type=options.positive_int, default=2, help="of YAMNet (default: %(default)s)")
    add("--card", type=Path, metavar="MD", help="put the tables into this model card, between its lines <!-- bars -->")
    add("generation", nargs="*", help="after --: options of `impact generate`, as -- --iterations 32 --device cuda")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    settings = jobs.settings_of(generate.build_parser().parse_args(generation_arguments(args, "", Path("none"))))
    from lab.cards.bars import Bars  # imported late, so that --help and errors appear at once
    from lab.cards.bars_markdown import around_the_marks, insert, tables

    if args.card is not None:
        around_the_marks(args.card)  # check before an hour of generation
    jobs.make_writable(args.out)
    codec = read_spec(find_model(args.model) / "config.json").codec
    bars = Bars(args, codec["name"], generator=lambda *given: generated(args, *given))
    result = {"model": str(args.model), "settings": settings, "codec": codec, "seconds": args.duration} | bars.figures()
    (args.out / "bars.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = tables(result)
    (args.out / "bars.md").write_text(text, encoding="utf-8")
    if args.card is not None:
        insert(args.card, text)
    print(text)


def generated(args: argparse.Namespace, what: str, captions_file: Path, variations: int = 1) -> list[Path]:
    """Return the sounds of each caption, in order, one per seed, generating missing ones."""
    argv = [*generation_arguments(args, what, captions_file), "--variations", str(variations)]
    generate.main(argv)
    return [job.file for job in jobs.plan_jobs(generate.build_parser().parse_args(argv))]


def generation_arguments(args: argparse.Namespace, what: str, captions_file: Path) -> list[str]:
    """Build the arguments of `impact generate` for one set of captions.

    Raises:
        UserError: The arguments after -- set what the table itself decides.
    """
    own = ["--captions-file", captions_file, "--out", args.out / what, "--model", args.model, "--format", "flac"]
    own = [str(each) for each in (*own, "--duration", args.duration, "--seed", args.seed)]
    parser = generate.build_parser()
    plain, given = vars(parser.parse_args(own)), vars(parser.parse_args([*own, *args.generation]))
    fixed = ["captions", "captions_file", "split", "limit", "out", "model", "format", "duration"]
    fixed += ["seed", "variations", "page"]
    changed = [key for key in fixed if plain[key] != given[key]]
    if changed:
        raise UserError(f"after --: the table itself decides about {changed[0]!r}; leave that out there")
    return [*own, *args.generation]


if __name__ == "__main__":
    main()
