"""`impact generate --timeline`: one long sound whose caption changes on the way."""

import argparse
import shutil
from pathlib import Path

from impact_pl.cli.facts import model_facts
from impact_pl.cli.jobs import check_out, decoding_of, load_pipeline, make_writable
from impact_pl.errors import UserError
from impact_pl.files import read_lines
from impact_pl.inference.stream import check_timeline
from impact_pl.inference.writer import AudioWriter
from impact_pl.models.spec import find_model
from impact_pl.precision import find_device
from impact_pl.progress import progress


def generate_timeline(args: argparse.Namespace, command: str) -> None:
    """Stream the timeline into a file."""
    if args.captions or args.captions_file or args.variations > 1:
        raise UserError("--timeline names the captions of one sound: leave out other captions, and -n")
    if args.split or args.limit or args.spectrogram:
        raise UserError("--timeline makes one sound: leave out --split, --limit and --spectrogram")
    if args.duration is None:
        raise UserError("--timeline: give the --duration of the sound in seconds")
    timeline = read_timeline(args.timeline)
    check_timeline(timeline, args.duration)
    out = args.out or args.timeline.with_suffix(".wav")
    check_out(out, args.timeline)
    for path in (out, args.page):
        if path is not None:
            make_writable(path)
    args.device = find_device(args.device)
    pipeline = load_pipeline(args)
    num_samples = round(args.duration * pipeline.sample_rate)
    check_space(out, num_samples)
    with (
        progress("generating", unit="frames") as bar,
        AudioWriter(out, pipeline.sample_rate, num_samples=num_samples) as file,
    ):
        for chunk in pipeline.stream(
            timeline,
            args.duration,
            seed=args.seed,
            negative_caption=args.negative,
            decoding=decoding_of(args),
            progress=bar.show,
        ):
            file.write(chunk.waveforms[0].double().numpy()[:, None])
    if args.page is not None:
        write_page(args, out, timeline, command)
    print(
        f"{out}: {args.duration:.2f} s at {pipeline.sample_rate} Hz, {len(timeline)} captions, seed {args.seed}, model "
        f"{args.model}, preset {args.preset}, on {args.device}"
    )


def check_space(out: Path, num_samples: int) -> None:
    """Check that the sound fits on the disk, before hours are spent on it.

    Raises:
        UserError: It does not.
    """
    smallest = 2 if out.suffix.lower() == ".wav" else 0.5  # bytes per sample; FLAC compresses
    needed, free = smallest * num_samples, shutil.disk_usage(out.parent).free
    if needed > free:
        raise UserError(
            f"-o {out}: takes {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB are free: choose a shorter --duration"
        )


def read_timeline(path: Path) -> list[tuple[float, str]]:
    """Read lines of seconds and a caption, such as ``20 rain and thunder``; a semicolon also ends a line.

    Raises:
        UserError: A line is something else.
    """
    if not path.is_file():
        raise UserError(f"no timeline at {path}")
    timeline = []
    lines = [part for line in read_lines(path) for part in line.split(";") if part.strip()]
    for number, line in enumerate(lines, start=1):
        start, *caption = line.split(maxsplit=1)  # at spaces or a tab
        try:
            timeline.append((float(start), caption[0].strip()))
        except (ValueError, IndexError):
            raise UserError(
                f"{path}, entry {number}: {line.strip()!r}: give seconds and a caption, such as `20 rain`"
            ) from None
    return timeline


def write_page(args: argparse.Namespace, out: Path, timeline: list[tuple[float, str]], command: str) -> None:
    """Write the sound with its spectrogram and a player as one page."""
    from impact_pl.evaluation.report import CaptionSounds, Report, write_report

    captions = "; ".join(f"{start:g} s: {caption}" for start, caption in timeline)
    facts = model_facts(find_model(args.model)) | {"Seed": str(args.seed)}
    size = write_report(
        Report(captions=[CaptionSounds(captions, {"generated": out})], commands=command, facts=facts), args.page
    )
    print(f"{args.page}: {len(timeline)} captions, {size / 1e6:.1f} MB")
