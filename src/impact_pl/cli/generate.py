"""`impact-generate`: captions -> audio files."""

import argparse
import hashlib
import json
import os
import re
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from impact_pl import assets
from impact_pl.audio import SUFFIXES, read_samples, save_audio, spectrogram_png
from impact_pl.cli import options
from impact_pl.config import DECODING_CHOICES, PRESETS, DecodingConfig, with_preset
from impact_pl.data.manifest import file_stems, read_manifest
from impact_pl.errors import UserError, user_errors
from impact_pl.files import read_lines
from impact_pl.models.spec import BUILTIN, find_model, read_spec
from impact_pl.progress import progress

WRITTEN = (".wav", ".flac")
CAPTIONS = Path(assets.__file__).with_name("captions.txt")  # twenty of them: --captions-file builtin
DECODING = {  # option -> field of DecodingConfig, and what it is
    "--iterations": ("num_iterations", "decoding iterations"),
    "--diffusion-steps": ("num_diffusion_steps", "of the reverse diffusion, an iteration"),
    "--final-diffusion-steps": ("final_diffusion_steps", "fall to so many in the last iteration; 0: the same in all"),
    "--solver": ("solver", "of the reverse diffusion"),
    "--guidance": ("guidance_scale", "beta_max; 1 is off"),
    "--guidance-schedule": ("guidance_schedule", "of beta over the iterations"),
    "--temperature": (
        "temperature",
        "factor of the noise that sampling adds; with ddim and one-step heads, of the noise it starts from, too",
    ),
    "--min-alpha-bar": ("min_alpha_bar", "share of signal at which sampling starts; 0: at the last timestep, as MAR"),
    "--order": ("order", "in which patches are revealed"),
    "--confidence-candidates": ("confidence_candidates", "draws a position that confidence is taken of"),
    "--confidence-steps": ("confidence_steps", "diffusion steps of each of them"),
    "--encoder-reuse": ("encoder_reuse", "the encoder computes all in every so many iterations; 1: in each"),
    "--reveal": ("reveal", "how many patches an iteration reveals"),
    "--engine": ("engine", "plain computes all that the reference computes; the result is the same to rounding"),
    "--precision": ("precision", "of the model; auto: bf16 where the processor computes in it"),
}


@dataclass
class Job:
    """One caption and the file that its sound goes to."""

    caption: str
    file: Path


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="impact-generate",
        description="Generate one sound for each caption.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n  impact-generate "a rooster crows" -o rooster.wav --seed 1\n'
        "  impact-generate --captions-file builtin -o twenty --page twenty.html\n"
        '  impact-generate "a dog barks" "rain falls" -o sounds --model runs/demo/text/model',
    )
    add = parser.add_argument
    add("captions", nargs="*", help="one caption or several, each in quotes")
    add(
        "--captions-file",
        type=Path,
        help="a text file with a caption a line, a manifest .jsonl, a test list .csv or .tsv; builtin: twenty captions",
    )
    add("--split", help="of a manifest: only the records of this split")
    add("--limit", type=options.positive_int, help="at most so many captions")
    add("--model", default=BUILTIN, help="model folder, or builtin: the one that comes with the package (the default)")
    add(
        *("-o", "--out"),
        type=Path,
        help="a .wav or .flac file, or a folder (default: a file named after the caption; of several, generated/)",
    )
    add("--format", choices=["wav", "flac"], default="wav", help="of the files in a folder (default: wav)")
    add("--page", type=Path, metavar="HTML", help="write all sounds, with players and spectrograms, as one page")
    add("--spectrogram", action="store_true", help="write a .png with the log-mel spectrogram beside each file")
    add("--duration", type=options.seconds, help="seconds (default: the longest that the model can do)")
    add("--seed", type=options.seed, default=0)
    add("--batch-size", type=options.positive_int, default=8, help="captions generated together (default: %(default)s)")
    add("--codec", help="name or folder of the codec (default: where the model noted it)")
    add("--text-encoder", help="name of the text encoder, as t5:FOLDER (default: what the model noted)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    add_decoding(parser.add_argument_group("decoding"))
    return parser


def add_decoding(group: argparse._ArgumentGroup) -> None:
    """A preset, and an option for each field of DecodingConfig that is worth one; None: as the preset or the model."""
    group.add_argument(
        "--preset",
        choices=list(PRESETS),
        default="exact",
        help="exact: as the model is made for (the default); fast: fewer steps; what you give yourself goes first",
    )
    paper = DecodingConfig()
    for flag, (field, text) in DECODING.items():
        default, choices = getattr(paper, field), DECODING_CHOICES.get(field)
        metavar = None if choices else "N" if isinstance(default, int) else "X"
        kind = type(default)
        group.add_argument(flag, dest=field, type=kind, choices=choices, metavar=metavar, help=f"{text} ({default})")


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    jobs = plan_jobs(args)
    settings = settings_of(args)
    batches = [jobs[start : start + args.batch_size] for start in range(0, len(jobs), args.batch_size)]
    finished = read_finished(args.out)
    noted = [settings | batch_settings(index, batch) for index, batch in enumerate(batches)]
    todo = [i for i, batch in enumerate(batches) if not all(is_finished(job, noted[i], finished) for job in batch)]
    if todo:
        options.require_device(args.device)
        generate(args, noted, batches, todo)
    if args.spectrogram:
        draw_spectrograms(jobs)
    made = sum(len(batches[i]) for i in todo)
    where = jobs[0].file if len(jobs) == 1 else args.out
    print(f"{where}: {made} generated, {len(jobs) - made} were finished before")
    if args.page is not None:
        write_page(args, jobs, shlex.join(["impact-generate", *(sys.argv[1:] if argv is None else argv)]))


def plan_jobs(args: argparse.Namespace) -> list[Job]:
    """Captions from the command line and the captions file, each with its output file; fills in ``args.out``."""
    named = [(_stem(index, caption), caption) for index, caption in enumerate(args.captions)]
    if args.captions_file is not None:
        named += _read_captions_file(args.captions_file, args.split, first_index=len(named))
    named = named[: args.limit]
    if not named:
        where = f" in split {args.split!r}" if args.split else ""
        source = f"{args.captions_file} holds no caption{where}" if args.captions_file else "no caption given"
        raise UserError(f'{source}: say for example impact-generate "a dog barks" -o dog.wav')
    if args.out is None:
        alone = len(args.captions) == 1 and args.captions_file is None
        args.out = Path(f"{_words(args.captions[0]) or 'sound'}.{args.format}" if alone else "generated")
    if not is_one_file(args.out) and args.out.suffix.lower() in SUFFIXES:
        raise UserError(f"-o {args.out}: {args.out.suffix} cannot be written, choose .wav, .flac or a folder")
    if is_one_file(args.out) and len(named) > 1:
        raise UserError(f"-o {args.out} is one file, but there are {len(named)} captions: give a folder")
    if is_one_file(args.out):
        return [Job(named[0][1], args.out)]
    stems = file_stems([name for name, _ in named])
    return [Job(caption, args.out / f"{stem}.{args.format}") for stem, (_, caption) in zip(stems, named, strict=True)]


def is_one_file(out: Path) -> bool:
    """Whether -o names a sound; else it is a folder of them."""
    return out.suffix.lower() in WRITTEN


def _read_captions_file(path: Path, split: str | None, first_index: int) -> list[tuple[str, str]]:
    path = CAPTIONS if str(path) == BUILTIN else path
    if not path.is_file():
        raise UserError(f"no captions file at {path}")
    if path.suffix == ".jsonl":
        records = [record for record in read_manifest(path) if record.caption and split in (None, record.split)]
        return [(record.id, record.caption or "") for record in records]
    if path.suffix.lower() in (".csv", ".tsv"):
        from impact_pl.data.lists import clip_stem, read_clip_list  # late: only test lists need it

        clips = read_clip_list(path)
        return [(clip_stem(clips.names[clip]), caption) for clip, caption in clips.captions.items()]
    lines = [line.strip() for line in read_lines(path) if line.strip()]
    return [(_stem(first_index + index, line), line) for index, line in enumerate(lines)]


def _stem(index: int, caption: str) -> str:
    return f"{index:04d}_{_words(caption)}"


def _words(caption: str) -> str:
    return re.sub(r"\W+", "_", caption.lower()).strip("_")[:60]


def generate(args: argparse.Namespace, noted: list[dict], batches: list[list[Job]], todo: list[int]) -> None:
    from impact_pl.inference.pipeline import ImpactPipeline  # late: --help and bad arguments answer at once

    pipeline = ImpactPipeline.from_pretrained(args.model, args.device, args.codec, args.text_encoder)
    make_writable(args.out.parent if is_one_file(args.out) else args.out)
    decoding = decoding_of(args)
    with progress("generating", len(todo) * decoding.num_iterations, unit="iterations") as bar:
        for index in todo:
            batch = batches[index]
            waveforms = pipeline(
                [job.caption for job in batch],
                duration=args.duration,
                seed=args.seed * 1_000_003 + index,  # a batch's sound does not depend on what was finished before
                decoding=decoding,
                progress=lambda iteration, num_iterations: bar.advance(),
            )
            for job, waveform in zip(batch, waveforms.cpu(), strict=True):
                save_audio(job.file, waveform, pipeline.sample_rate)
            remember(args.out, batch, noted[index])


def draw_spectrograms(jobs: list[Job]) -> None:
    """A .png beside each sound that has none, or one that is older than the sound."""
    for job in jobs:
        picture = job.file.with_suffix(".png")
        if not picture.is_file() or picture.stat().st_mtime < job.file.stat().st_mtime:
            samples, rate = read_samples(job.file)  # (S, 1)
            spectrogram_png(torch.from_numpy(samples[:, 0]), rate, picture, title=job.caption)


def decoding_of(args: argparse.Namespace) -> DecodingConfig:
    """The model's own, with the preset's changes and what was given explicitly."""
    config = find_model(args.model) / "config.json"
    own = DecodingConfig()  # where there is no model: that is said when it is loaded
    if config.is_file():
        own = read_spec(config).own_decoding
    given = {field: getattr(args, field) for field, _ in DECODING.values()}
    given = {field: value for field, value in given.items() if value is not None}
    return with_preset(own, args.preset, given)


def make_writable(folder: Path) -> None:
    """Make the folder of the results, before an hour is spent on what could not be written.

    Raises:
        ValueError: nothing can be written there. OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: no permission to write there; choose another folder with -o")


def write_page(args: argparse.Namespace, jobs: list[Job], command: str) -> None:
    """All sounds with their spectrograms and players, as one page that needs nothing else."""
    from impact_pl.cli.facts import generation_facts, model_facts
    from impact_pl.evaluation.report import Report, Row, write_report

    rows = [Row(job.caption, {"generated": job.file}) for job in jobs]
    facts = model_facts(find_model(args.model)) | generation_facts(args.out)
    size = write_report(Report(rows=rows, commands=command, facts=facts), args.page)
    print(f"{args.page}: {len(rows)} captions, {size / 1e6:.1f} MB")


def settings_of(args: argparse.Namespace) -> dict:
    """Everything that decides the sounds, beside the captions."""
    model_file = find_model(args.model) / "model.safetensors"
    model = hashlib.sha256(model_file.read_bytes()).hexdigest()[:16] if model_file.is_file() else None
    keys = ("duration", "seed", "batch_size", "codec", "device")
    return {"model": model} | {key: getattr(args, key) for key in keys} | asdict(decoding_of(args))


def batch_settings(index: int, batch: list[Job]) -> dict:
    """What the sounds of a batch depend on beside that: its place, which is in its seed, and its captions."""
    captions = json.dumps([job.caption for job in batch])
    return {"batch": f"{index} {hashlib.sha256(captions.encode()).hexdigest()[:16]}"}


def read_finished(out: Path) -> dict[str, dict]:
    """File name -> its newest entry in generated.jsonl."""
    log = out / "generated.jsonl"
    if is_one_file(out) or not log.is_file():
        return {}
    entries = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut short by a kill: that file counts as not finished
        entries[entry["file"]] = entry
    return entries


def is_finished(job: Job, settings: dict, finished: dict[str, dict]) -> bool:
    entry = {"file": job.file.name, "caption": job.caption} | settings
    return finished.get(job.file.name) == entry and job.file.is_file()


def remember(out: Path, batch: list[Job], settings: dict) -> None:
    if is_one_file(out):  # a single file: made anew each time
        return
    log = out / "generated.jsonl"
    cut_short = log.is_file() and not log.read_bytes().endswith(b"\n")
    with open(log, "a", encoding="utf-8") as stream:
        stream.write("\n" * cut_short)
        for job in batch:
            stream.write(json.dumps({"file": job.file.name, "caption": job.caption} | settings) + "\n")


if __name__ == "__main__":
    main()
