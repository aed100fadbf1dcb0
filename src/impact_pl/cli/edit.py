"""`impact edit`: replace parts of a recording, make it longer, vary it, or make it loop."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from impact_pl.cli import options
from impact_pl.cli.generate import add_decoding
from impact_pl.errors import UserError, user_errors
from impact_pl.models.spec import BUILTIN, find_model

if TYPE_CHECKING:
    from impact_pl.inference.recording import EditedAudio, Recording

MAX_SHOWN = 60.0  # seconds of a sound on the page; of a longer one, the surroundings of what was drawn first
AROUND = 10.0  # seconds


def build_parser() -> argparse.ArgumentParser:
    parser = options.Parser(
        prog="impact edit",
        description="Change a part of a recording, in the context of the rest. What is not changed keeps its samples,\n"
        "sample rate and channels (mono or stereo).",
        epilog='examples:\n  impact edit yard.wav --replace 1.2:2.4 "a rooster crows" -o rooster.wav\n'
        '  impact edit yard.wav --replace 1:2 "a dog barks" --replace 3:4.5 "rain falls" -o both.wav\n'
        '  impact edit rain.wav --extend 4 --caption "rain falls" -o longer.wav --page longer.html\n'
        '  impact edit rain.wav --vary 0.3 --caption "rain falls" --seed 1 -o other.wav\n'
        '  impact edit rain.wav --loop --caption "rain falls" -o loop.wav',
    )
    add = parser.add_argument
    add("input", type=Path, help="an audio file of any length and sample rate, mono or stereo")
    add("-o", "--out", type=Path, help="a .wav or .flac file (default: INPUT_edited.wav)")
    what = parser.add_argument_group("what to do (choose one)")
    what.add_argument(
        "--replace",
        nargs=2,
        action="append",
        metavar=("START:END", "CAPTION"),
        help="replace these seconds by what the caption says; may be repeated",
    )
    what.add_argument("--extend", type=options.seconds, metavar="SECONDS", help="make it longer")
    what.add_argument("--vary", type=float, metavar="SHARE", help="draw this share of it again, above 0, at most 1")
    what.add_argument("--loop", action="store_true", help="let its end lead into its beginning")
    add("--caption", help="what to draw with --extend, --vary and --loop")
    add("--side", choices=["start", "end", "both"], default="end", help="of --extend (default: end)")
    add("--seam", type=options.seconds, default=1.0, help="seconds around the joint of --loop (default: %(default)g)")
    add("--negative", metavar="CAPTION", help="what guidance leads away from (default: no particular sound)")
    add("--seed", type=options.seed, default=0, help="default: %(default)s")
    add("--fade", type=float, default=20.0, metavar="MS", help="cross-fades around it, in milliseconds (default: 20)")
    add("--keep-level", action="store_true", help="do not match the level of what is drawn to what is next to it")
    add("--page", type=options.page, metavar="HTML", help="write the sound before and after as one page")
    add("--model", default=BUILTIN, help="model folder, or builtin (the default): the model in the package")
    options.add_parts(parser)
    add_decoding(parser.add_argument_group("decoding (default: the model's own; in brackets DecodingConfig's)"))
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Run ``impact edit``."""
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(argv)
    regions = check_arguments(args)
    from impact_pl.cli.jobs import check_out, decoding_of, make_writable
    from impact_pl.inference.recording import Recording
    from impact_pl.precision import find_device

    args.out = args.out or Path(f"{args.input.stem}_edited.wav")
    check_out(args.out, args.input)
    args.device = find_device(args.device)
    before = Recording(args.input)  # before a model is loaded, because it may not be readable
    for path in (args.out, args.page):
        if path is not None:
            make_writable(path)
    given = {
        "decoding": decoding_of(args),
        "seed": args.seed,
        "negative_caption": args.negative,
        "fade_ms": args.fade,
        "match_level": not args.keep_level,
    }
    sound = edit(args, regions, given)
    sound.save(args.out)
    if args.page is not None:
        write_page(args, before, sound, shlex.join(["impact", "edit", *argv]))
    summarise(args, sound)


def check_arguments(args: argparse.Namespace) -> list[tuple[float, float, str]]:
    """Check that there is exactly one thing to do, and return the regions to replace.

    Raises:
        UserError: There is not, or a region is not START:END.
    """
    asked = [name for name in ("replace", "extend", "vary", "loop") if getattr(args, name) not in (None, False)]
    if len(asked) != 1:
        said = " and ".join(f"--{name}" for name in asked) or "nothing to do"
        raise UserError(f"{said}: choose one of --replace, --extend, --vary and --loop")
    if args.replace is None:
        return []
    if args.caption is not None:
        raise UserError("--caption: with --replace, each region has its own caption")
    return [(*parse_region(where), caption) for where, caption in args.replace]


def parse_region(text: str) -> tuple[float, float]:
    """Parse START:END in seconds."""
    start, _, end = text.partition(":")
    try:
        return float(start), float(end)
    except ValueError:
        raise UserError(f"--replace {text}: give START:END in seconds, such as 1.2:2.4") from None


def edit(args: argparse.Namespace, regions: list[tuple[float, float, str]], given: dict[str, Any]) -> EditedAudio:
    """Load the model and do what was asked for."""
    from impact_pl.cli.jobs import load_pipeline
    from impact_pl.progress import progress

    pipeline = load_pipeline(args)
    with progress("editing", unit="iterations") as bar:
        given["progress"] = bar.show
        if regions:
            return pipeline.edit(args.input, regions=regions, **given)
        if args.extend is not None:
            return pipeline.extend(args.input, args.caption, args.extend, args.side, **given)
        if args.vary is not None:
            return pipeline.vary(args.input, args.caption, args.vary, **given)
        return pipeline.loop(args.input, args.caption, seam=args.seam, **given)


def write_page(args: argparse.Namespace, before: Recording, sound: EditedAudio, command: str) -> None:
    """Write the sound before and after, with players and spectrograms, as one self-contained page."""
    from impact_pl.cli.facts import model_facts
    from impact_pl.evaluation.report import CaptionSounds, Report, write_report
    from impact_pl.inference.recording import Recording

    with tempfile.TemporaryDirectory() as folder:
        shown = {}
        for kind, recording in (("before", before), ("after", sound.recording)):
            start, stop = recording.start, recording.stop
            if recording.duration > MAX_SHOWN:
                start = max(start, round((sound.regions[0][0] - AROUND) * recording.sample_rate))
                stop = min(stop, start + round(MAX_SHOWN * recording.sample_rate))
            shown[kind] = Path(folder, f"{kind}.flac")
            Recording(recording.read(start, stop), recording.sample_rate).save(shown[kind])
        captions = [CaptionSounds(describe(sound), shown)]
        facts = model_facts(find_model(args.model)) | {"Seed": str(args.seed)}
        title = f"IMPACT: {args.input.name}, edited"
        size = write_report(Report(title, captions, commands=command, facts=facts), args.page)
    print(f"{args.page}: before and after, {size / 1e6:.1f} MB")


def describe(sound: EditedAudio) -> str:
    """Name the captions that were drawn, with their regions if there are few."""
    if len(sound.regions) > 4:
        return f"{sound.captions[0] or 'sound'} ({len(sound.regions)} places)"
    said = [f"{caption or 'sound'} ({start:.2f} to {end:.2f} s)" for caption, (start, end) in _drawn(sound)]
    return "; ".join(said)


def _drawn(sound: EditedAudio) -> list[tuple[str | None, tuple[float, float]]]:
    return list(zip(sound.captions, sound.regions, strict=True))


def summarise(args: argparse.Namespace, sound: EditedAudio) -> None:
    """Say in one line what was made."""
    channels = "mono" if sound.recording.num_channels == 1 else "stereo"
    drawn = sum(end - start for start, end in sound.regions)
    print(
        f"{args.out}: {sound.duration:.2f} s {channels} at {sound.sample_rate} Hz, {drawn:.2f} s of it drawn, "
        f"seed {args.seed}, model {args.model}, preset {args.preset}, on {args.device}"
    )
