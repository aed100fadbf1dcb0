"""`impact generate`: generate audio files from captions."""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from impact_pl.cli import options
from impact_pl.config import DECODING_CHOICES, PRESETS, DecodingConfig
from impact_pl.errors import user_errors
from impact_pl.models.spec import BUILTIN, find_model

if TYPE_CHECKING:  # these need torch and are imported after argument parsing, so that --help responds at once
    from impact_pl.cli.jobs import Job

DECODING = {  # option -> (field of DecodingConfig, help text)
    "--iterations": ("num_iterations", "decoding iterations"),
    "--diffusion-steps": ("num_diffusion_steps", "diffusion steps per iteration"),
    "--final-diffusion-steps": ("final_diffusion_steps", "decrease to this number by the last iteration; 0: constant"),
    "--solver": ("solver", "sampler of the reverse diffusion"),
    "--guidance": ("guidance_scale", "beta_max; 1 disables guidance"),
    "--guidance-schedule": ("guidance_schedule", "schedule of beta over the iterations"),
    "--temperature": (
        "temperature",
        "scales the noise that sampling adds; with ddim and consistency heads also the initial noise",
    ),
    "--min-alpha-bar": ("min_alpha_bar", "fraction of signal at which sampling starts; 0: last timestep, as MAR"),
    "--max-rms": ("max_rms", "bound on the RMS of a denoised patch, in standard deviations; 0: none, as MAR"),
    "--order": ("order", "order in which patches are revealed"),
    "--confidence-candidates": ("confidence_candidates", "draws per position to compute the confidence from"),
    "--confidence-steps": ("confidence_steps", "diffusion steps per such draw"),
    "--encoder-reuse": ("encoder_reuse", "run the full encoder in every n-th iteration only"),
    "--reveal": ("reveal", "schedule of the patches revealed per iteration"),
    "--engine": ("engine", "reference: the operations of LTH14/mar; same result up to rounding"),
    "--precision": ("precision", "of the model; auto: bf16 if natively supported"),
}
MOST_WARNINGS = 5  # maximum number of files to name


def build_parser() -> argparse.ArgumentParser:
    parser = options.Parser(
        prog="impact generate",
        description="Generate sounds from captions. A sound depends only on the model, its caption and its seed,\n"
        "not on other sounds in the same call. The same command continues an interrupted run.",
        epilog='examples:\n  impact generate "a rooster crows" -o rooster.wav --seed 1\n'
        '  impact generate "a rooster crows" -n 4 -o roosters\n'
        "  impact generate --captions-file builtin -o twenty --page twenty.html\n"
        '  impact generate "a dog barks" "rain falls" -o sounds --model runs/demo/text/model\n'
        "  impact generate --timeline storm.txt --duration 180 -o storm.wav",
    )
    add = parser.add_argument
    add("captions", nargs="*", help="one or more captions, each in quotes")
    add(
        "--captions-file",
        type=Path,
        help="a text file with one caption per line, a manifest .jsonl, a test list .csv or .tsv; builtin: 20 captions",
    )
    add(
        "--timeline",
        type=Path,
        metavar="FILE",
        help="one sound of any --duration whose caption changes: lines of seconds and a caption, such as `20 thunder`",
    )
    add("--split", help="use only the records of this split of a manifest")
    add("--limit", type=options.positive_int, help="maximum number of captions")
    add("--model", default=BUILTIN, help="model folder, or builtin (the default): the model in the package")
    add(
        *("-o", "--out"),
        type=Path,
        help="a .wav or .flac file, or a folder (default: a file named after the caption, or generated/ for several)",
    )
    add("--format", choices=["wav", "flac"], default="wav", help="format of files in a folder (default: wav)")
    add(
        "--page", type=options.page, metavar="HTML", help="write all sounds, with players and spectrograms, as one page"
    )
    add("--spectrogram", action="store_true", help="write a .png with the log-mel spectrogram next to each file")
    add("--duration", type=options.seconds, help="seconds (default: the maximum of the model)")
    add("--negative", metavar="CAPTION", help="what guidance leads away from (default: no particular sound)")
    add("--seed", type=options.seed, default=0, help="default: %(default)s")
    add(
        *("-n", "--variations"),
        type=options.positive_int,
        default=1,
        metavar="N",
        help="sounds per caption, with the seeds SEED, SEED + 1, ...",
    )
    add("--batch-size", type=options.positive_int, default=8, help="sounds generated together (default: %(default)s)")
    options.add_parts(parser)
    add_decoding(parser.add_argument_group("decoding (default: the model's own; in brackets DecodingConfig's)"))
    return parser


def add_decoding(group: argparse._ArgumentGroup) -> None:
    """Add a preset, and an option for each field of DecodingConfig; None: decided by the preset or the model."""
    group.add_argument(
        "--preset",
        choices=list(PRESETS),
        default="exact",
        help="exact: the model's own settings (the default); fast: fewer steps; explicit options take precedence",
    )
    defaults = DecodingConfig()
    for flag, (field, text) in DECODING.items():
        default, choices = getattr(defaults, field), DECODING_CHOICES.get(field)
        metavar = None if choices else "N" if isinstance(default, int) else "X"
        kind = type(default)
        group.add_argument(flag, dest=field, type=kind, choices=choices, metavar=metavar, help=f"{text} ({default})")


@user_errors(interrupted="interrupted: finished sounds are kept; the same command makes the others.")
def main(argv: list[str] | None = None) -> None:
    """Run ``impact generate``."""
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(argv)
    command = shlex.join(["impact", "generate", *argv])
    if args.timeline is not None:
        from impact_pl.cli.timeline import generate_timeline

        generate_timeline(args, command)
    else:
        generate_all(args, command)


def generate_all(args: argparse.Namespace, command: str) -> None:
    """Generate a sound per caption and seed, except for those that an earlier call has finished."""
    from impact_pl.cli.jobs import is_finished, make_writable, plan_jobs, read_finished, settings_of
    from impact_pl.precision import find_device

    jobs = plan_jobs(args)
    args.device = find_device(args.device)
    for path in (args.out, args.page):
        if path is not None:
            make_writable(path)
    settings, finished = settings_of(args), read_finished(args.out)
    todo = [job for job in jobs if not is_finished(job, settings, finished)]
    if todo:
        generate(args, todo, settings)
    if args.spectrogram:
        draw_spectrograms(jobs)
    if args.page is not None:
        write_page(args, jobs, command)
    summarise(args, jobs, len(todo))


def generate(args: argparse.Namespace, todo: list[Job], settings: dict) -> None:
    """Generate the sounds that are not finished, batch by batch."""
    from impact_pl.audio import save_audio
    from impact_pl.cli.jobs import decoding_of, load_pipeline, remember
    from impact_pl.progress import progress

    pipeline = load_pipeline(args)
    decoding = decoding_of(args)
    batches = [todo[start : start + args.batch_size] for start in range(0, len(todo), args.batch_size)]
    name, unit = f"generating {len(todo)} sound(s)", f"iterations ({decoding.num_iterations} per sound)"
    with progress(name, len(todo) * decoding.num_iterations, unit=unit) as bar:
        for batch in batches:
            advance = functools.partial(bar.advance, len(batch))
            sounds = pipeline(
                [job.caption for job in batch],
                duration=args.duration,
                seeds=[job.seed for job in batch],
                negative_caption=args.negative,
                decoding=decoding,
                progress=lambda *_, advance=advance: advance(),
            )
            for job, waveform in zip(batch, sounds.waveforms, strict=True):
                save_audio(job.file, waveform, pipeline.sample_rate)
            remember(args.out, batch, settings)


def draw_spectrograms(jobs: list[Job]) -> None:
    """Draw a .png next to each sound that has none or an outdated one."""
    import torch

    from impact_pl.audio import read_samples
    from impact_pl.partial import partial_path
    from impact_pl.spectrogram import spectrogram_png

    for job in jobs:
        picture = job.file.with_suffix(".png")
        if not picture.is_file() or picture.stat().st_mtime < job.file.stat().st_mtime:
            samples, rate = read_samples(job.file)  # (S, 1)
            partial = partial_path(picture)
            spectrogram_png(torch.from_numpy(samples[:, 0]), rate, partial, title=job.caption)
            partial.replace(picture)


def write_page(args: argparse.Namespace, jobs: list[Job], command: str) -> None:
    """Write all sounds with their spectrograms and players as one self-contained page."""
    from impact_pl.cli.facts import generation_facts, model_facts
    from impact_pl.evaluation.report import CaptionSounds, Report, write_report

    captions = [CaptionSounds(job.caption, {"generated": job.file}) for job in jobs]
    facts = model_facts(find_model(args.model)) | generation_facts(args.out)
    size = write_report(Report(captions=captions, commands=command, facts=facts), args.page)
    print(f"{args.page}: {len(captions)} captions, {size / 1e6:.1f} MB")


def summarise(args: argparse.Namespace, jobs: list[Job], num_made: int) -> None:
    """Warn about silent and clipped sounds, then summarise the run in one line."""
    import torch

    from impact_pl.audio import measure_level, read_samples
    from impact_pl.cli.jobs import decoding_of

    warnings, seconds, rate = [], 0.0, 0
    for job in jobs:
        samples, rate = read_samples(job.file)  # (S, 1)
        seconds = max(seconds, len(samples) / rate)
        if warning := measure_level(torch.from_numpy(samples[:, 0]), rate).warning:
            warnings.append(f"{job.file} is {warning}")
    for warning in warnings[:MOST_WARNINGS]:
        print(f"warning: {warning}", file=sys.stderr)
    if len(warnings) > MOST_WARNINGS:
        print(f"warning: {len(warnings)} of {len(jobs)} sounds are silent or clipped", file=sys.stderr)
    decoding, last = decoding_of(args), args.seed + args.variations - 1
    made = str(jobs[0].file)
    if len(jobs) > 1:
        finished = len(jobs) - num_made
        made = f"{args.out}: {len(jobs)} sounds ({num_made} generated, {finished} were finished before)"
    seeds = f"seed {last}" if args.variations == 1 else f"seeds {args.seed} to {last}"
    print(
        f"{made}: {seconds:.2f} s at {rate} Hz, {seeds}, model {args.model}; {decoding.num_iterations} iterations of "
        f"{decoding.num_diffusion_steps} diffusion steps, {decoding.guidance_schedule} guidance "
        f"{decoding.guidance_scale:g}, preset {args.preset}, on {args.device}"
    )
