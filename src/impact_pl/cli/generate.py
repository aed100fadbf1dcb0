"""`impact-generate`: captions -> audio files."""

import argparse
import dataclasses
import json
import os
import re
import sys
from pathlib import Path

from impact_pl.cli.errors import user_errors
from impact_pl.config import DecodingConfig

SUFFIXES = (".wav", ".flac")


def build_parser() -> argparse.ArgumentParser:
    defaults = DecodingConfig()
    parser = argparse.ArgumentParser(
        prog="impact-generate",
        description="Generate one sound for each caption.",
        epilog='example: impact-generate "a dog barks" -o dog.wav --model runs/demo/text/model --seed 1',
    )
    parser.add_argument("captions", nargs="*", help="one caption or several, each in quotes")
    parser.add_argument(
        "--captions-file", type=Path, help="text file with a caption a line, or manifest .jsonl (id, caption)"
    )
    parser.add_argument("--split", help="with a .jsonl file: only the records of this split")
    parser.add_argument("--limit", type=int, help="at most so many captions of the file")
    parser.add_argument(
        "--model", type=Path, default=Path("runs/demo/text/model"), help="model folder (default: %(default)s)"
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("generated"),
        help="a .wav or .flac file for one caption, else a folder (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--format", choices=["wav", "flac"], default="wav", help="of files in a folder (default: wav)")
    parser.add_argument(
        "--spectrogram", action="store_true", help="write a .png with the log-mel spectrogram beside each file"
    )
    parser.add_argument("--duration", type=float, help="seconds (default: the model's longest)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=8, help="captions generated together (default: 8)")
    parser.add_argument(
        "--iterations", type=int, default=defaults.num_iterations, help="decoding iterations T (default: 64)"
    )
    parser.add_argument("--diffusion-steps", type=int, default=defaults.num_diffusion_steps, help="(default: 100)")
    parser.add_argument(
        "--guidance", type=float, default=defaults.guidance_scale, help="beta_max (default: 5); 1 is off"
    )
    parser.add_argument(
        "--guidance-schedule", choices=["cosine", "constant", "linear"], default=defaults.guidance_schedule
    )
    parser.add_argument("--temperature", type=float, default=defaults.temperature)
    parser.add_argument("--order", choices=["random", "confidence"], default=defaults.order)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default: cpu)")
    return parser


def read_captions(args: argparse.Namespace) -> list[tuple[str, str]]:
    """(file stem, caption) pairs from the command line and the captions file."""
    pairs = [(_stem(caption, index), caption) for index, caption in enumerate(args.captions)]
    if args.captions_file is not None:
        pairs += _read_captions_file(args.captions_file, args.split, start=len(pairs))
    if args.limit is not None:
        pairs = pairs[: args.limit]
    if not pairs:
        source = f"{args.captions_file} holds no caption" if args.captions_file else "no caption given"
        raise ValueError(f'{source}: say for example impact-generate "a dog barks" -o dog.wav')
    return pairs


def _read_captions_file(path: Path, split: str | None, start: int) -> list[tuple[str, str]]:
    if not path.is_file():
        raise ValueError(f"no captions file at {path}")
    if path.suffix == ".jsonl":
        from impact_pl.data.manifest import read_manifest

        records = [record for record in read_manifest(path) if record.caption and split in (None, record.split)]
        return [(re.sub(r"[^\w.-]+", "_", record.id), record.caption) for record in records]
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [(_stem(line, start + index), line) for index, line in enumerate(line for line in lines if line)]


def _stem(caption: str, index: int) -> str:
    words = re.sub(r"[^\w]+", "_", caption.lower()).strip("_")[:60]
    return f"{index:04d}_{words}"


def plan_files(args: argparse.Namespace, pairs: list[tuple[str, str]]) -> list[Path]:
    """The output file of each caption."""
    if args.out.suffix in SUFFIXES:
        if len(pairs) > 1:
            raise ValueError(f"-o {args.out} is one file, but there are {len(pairs)} captions: give a folder")
        return [args.out]
    if args.out.suffix:
        raise ValueError(f"-o {args.out}: unknown audio format {args.out.suffix!r}, choose .wav, .flac or a folder")
    return [args.out / f"{stem}.{args.format}" for stem, _ in pairs]


def settings_of(args: argparse.Namespace) -> dict:
    """Everything that decides the sound: finished files are reused only for equal settings."""
    model_file = args.model / "model.safetensors"
    stamp = [model_file.stat().st_size, model_file.stat().st_mtime_ns] if model_file.is_file() else None
    keys = (
        "duration", "seed", "batch_size", "iterations", "diffusion_steps", "guidance", "guidance_schedule",
        "temperature", "order", "format",
    )  # fmt: skip
    return {"model": os.fspath(args.model.resolve()), "model_stamp": stamp} | {key: getattr(args, key) for key in keys}


def decoding_of(args: argparse.Namespace) -> DecodingConfig:
    return dataclasses.replace(
        DecodingConfig(),
        num_iterations=args.iterations,
        num_diffusion_steps=args.diffusion_steps,
        guidance_scale=args.guidance,
        guidance_schedule=args.guidance_schedule,
        temperature=args.temperature,
        order=args.order,
    )


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    pairs = read_captions(args)
    files = plan_files(args, pairs)
    batches = [range(i, min(i + args.batch_size, len(pairs))) for i in range(0, len(pairs), max(args.batch_size, 1))]
    done = _finished_batches(args, pairs, files, batches)
    todo = [index for index in range(len(batches)) if index not in done]
    if not todo:
        print(f"nothing to do: {len(files)} files in {args.out} are finished")
        return
    _generate(args, pairs, files, batches, todo)
    print(f"{len(files)} files: {files[0] if len(files) == 1 else args.out}")


def _generate(args, pairs, files: list[Path], batches: list[range], todo: list[int]) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from impact_pl.audio import save_audio, spectrogram_png
    from impact_pl.pipeline import ImpactPipeline

    pipeline = ImpactPipeline.from_pretrained(args.model, args.device)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("iterations"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("generating", total=len(todo) * args.iterations)
        for count, index in enumerate(todo):
            rows = batches[index]
            waveforms = pipeline(
                [pairs[i][1] for i in rows],
                duration=args.duration,
                seed=args.seed * 1_000_003 + index,  # a batch's sound does not depend on what was finished before
                decoding=decoding_of(args),
                progress=lambda i, n, count=count: bar.update(task, completed=count * args.iterations + i),
            )
            for i, waveform in zip(rows, waveforms, strict=True):
                files[i].parent.mkdir(parents=True, exist_ok=True)
                save_audio(files[i], waveform.cpu(), pipeline.sample_rate)
                if args.spectrogram:
                    spectrogram_png(
                        waveform.cpu(), pipeline.sample_rate, files[i].with_suffix(".png"), title=pairs[i][1]
                    )
            _remember(args, pairs, files, rows)
            if not sys.stderr.isatty():
                print(f"{rows.stop}/{len(pairs)} captions", file=sys.stderr, flush=True)


# A folder of results carries generated.jsonl: settings and captions of every finished file, one a line. A run with the
# same settings skips the batches that are listed there; a file made with other settings is made again.


def _entry(args, pair: tuple[str, str], file: Path) -> str:
    return json.dumps({"file": file.name, "caption": pair[1]} | settings_of(args), sort_keys=True)


def _remember(args, pairs, files: list[Path], rows: range) -> None:
    if args.out.suffix in SUFFIXES:
        return
    with open(args.out / "generated.jsonl", "a", encoding="utf-8") as log:
        log.writelines(_entry(args, pairs[i], files[i]) + "\n" for i in rows)


def _finished_batches(args, pairs, files: list[Path], batches: list[range]) -> set[int]:
    log = args.out / "generated.jsonl"
    if args.out.suffix in SUFFIXES or not log.is_file():
        return set()
    last_entry = {}  # the newest line of a file counts
    for line in log.read_text(encoding="utf-8").splitlines():
        last_entry[json.loads(line)["file"]] = line
    return {
        index
        for index, rows in enumerate(batches)
        if all(files[i].is_file() and last_entry.get(files[i].name) == _entry(args, pairs[i], files[i]) for i in rows)
    }


if __name__ == "__main__":
    main()
