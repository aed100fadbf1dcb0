"""Plan `impact generate`: captions with their files and seeds, and which of them are finished."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from impact_pl import assets
from impact_pl.audio import FORMATS, SUFFIXES
from impact_pl.cli.options import SEED_LIMIT
from impact_pl.config import DecodingConfig, with_preset
from impact_pl.data.manifest import file_stems, read_manifest
from impact_pl.errors import UserError
from impact_pl.files import read_lines
from impact_pl.identity import files_sha256
from impact_pl.models.adapters import FILES as ADAPTER_FILES
from impact_pl.models.spec import BUILTIN, FILES, find_model, read_spec, read_weights_sha256

if TYPE_CHECKING:
    from impact_pl.inference.pipeline import ImpactPipeline

CAPTIONS = Path(assets.__file__).with_name("captions.txt")  # 20 captions, --captions-file builtin
LONGEST_NAME = 120  # bytes of a caption in a file name; file systems allow 255, including suffixes
DECODING_FIELDS = tuple(asdict(DecodingConfig()))


@dataclass
class Job:
    """One sound: its caption, seed and output file."""

    caption: str
    file: Path
    seed: int = 0


def plan_jobs(args: argparse.Namespace) -> list[Job]:
    """Read captions from the command line and the captions file, and set ``args.out``.

    Raises:
        UserError: There is no caption, or their files cannot be written.
    """
    named = [(_stem(index, caption), caption) for index, caption in enumerate(args.captions)]
    if args.captions_file is not None:
        named += _read_captions_file(args.captions_file, args.split, first_index=len(named))
    named = named[: args.limit]
    if not named:
        where = f" in split {args.split!r}" if args.split else ""
        source = f"{args.captions_file} holds no caption{where}" if args.captions_file else "no caption given"
        raise UserError(f'{source}: try for example impact generate "a dog barks" -o dog.wav')
    if args.seed + args.variations > SEED_LIMIT:
        raise UserError(f"--seed {args.seed} -n {args.variations}: seeds end at {SEED_LIMIT - 1}")
    num_sounds = len(named) * args.variations
    if args.out is None:
        alone = num_sounds == 1 and args.captions_file is None
        args.out = Path(f"{_words(args.captions[0]) or 'sound'}.{args.format}" if alone else "generated")
    if not is_one_file(args.out) and args.out.suffix.lower() in SUFFIXES:
        raise UserError(f"-o {args.out}: {args.out.suffix} cannot be written, choose .wav, .flac or a folder")
    if is_one_file(args.out):
        if num_sounds > 1:
            what = "captions" if args.variations == 1 else "sounds"
            raise UserError(f"-o {args.out} is one file, but there are {num_sounds} {what}: give a folder")
        return [Job(named[0][1], args.out, args.seed)]
    stems = file_stems([name for name, _ in named])
    return [
        Job(caption, args.out / f"{stem}{f'_seed{seed}' if args.variations > 1 else ''}.{args.format}", seed)
        for stem, (_, caption) in zip(stems, named, strict=True)
        for seed in range(args.seed, args.seed + args.variations)
    ]


def is_one_file(out: Path) -> bool:
    """Check whether -o names a sound, as opposed to a folder of sounds."""
    return out.suffix.lower() in FORMATS


def check_out(out: Path, source: Path) -> None:
    """Check the name of a sound to write.

    Raises:
        UserError: It cannot be written, or is the input, which is read while the output is written.
    """
    if not is_one_file(out):
        raise UserError(f"-o {out}: {out.suffix or 'no suffix'} cannot be written, choose .wav or .flac")
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"-o {out} is the input itself, which is kept: choose another name")


def make_writable(out: Path) -> None:
    """Create the folder for ``out`` and check that it is writable, before spending time on generation.

    Raises:
        UserError: Nothing can be written there.
        OSError: The folder cannot be created.
    """
    folder = out.parent if out.suffix else out
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: no permission to write there; choose another folder")
    if out.suffix and out.is_dir():
        raise UserError(f"{out} is a folder, but a file would be written there: give another name")
    if out.suffix and out.is_file() and not os.access(out, os.W_OK):
        raise UserError(f"{out}: this file is write-protected; give another name")


def _read_captions_file(path: Path, split: str | None, first_index: int) -> list[tuple[str, str]]:
    path = CAPTIONS if str(path) == BUILTIN else path
    if not path.is_file():
        raise UserError(f"no captions file at {path}")
    if path.suffix == ".jsonl":
        records = [record for record in read_manifest(path) if record.caption and split in (None, record.split)]
        return [(record.id, record.caption or "") for record in records]
    if path.suffix.lower() in (".csv", ".tsv"):
        from impact_pl.data.lists import clip_stem, read_clip_list  # imported late; only test lists need it

        clips = read_clip_list(path)
        return [(clip_stem(clips.names[clip]), caption) for clip, caption in clips.captions.items()]
    lines = [line.strip() for line in read_lines(path) if line.strip()]
    return [(_stem(first_index + index, line), line) for index, line in enumerate(lines)]


def _stem(index: int, caption: str) -> str:
    return f"{index:04d}_{_words(caption)}"


def _words(caption: str) -> str:
    """Convert a caption to a file name, in characters that this locale's file names support."""
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the caption {caption!a} is not valid {sys.getfilesystemencoding()} text") from error
    words = re.sub(r"\W+", "_", caption.lower()).strip("_")[:60]
    encoding = sys.getfilesystemencoding()
    return words.encode(encoding, "ignore")[:LONGEST_NAME].decode(encoding, "ignore")


def decoding_of(args: argparse.Namespace) -> DecodingConfig:
    """Return the model's own decoding settings with those of the preset and the explicit options applied."""
    config = find_model(args.model) / "config.json"
    own = DecodingConfig()  # no model: reported when it is loaded
    if config.is_file():
        own = read_spec(config).own_decoding
    given = {field: value for field in DECODING_FIELDS if (value := getattr(args, field, None)) is not None}
    return with_preset(own, args.preset, given)


def settings_of(args: argparse.Namespace) -> dict:
    """Collect everything that determines the sounds, apart from captions and seeds."""
    config, weights = (find_model(args.model) / name for name in FILES)
    model = None  # reported when it is loaded
    if config.is_file() and weights.is_file():  # loading compares the checksum with the weights
        model = (read_weights_sha256(config) or files_sha256([weights]))[:16]
    keys = ("duration", "codec", "device")
    adapters = [
        [folder, strength, _adapter_sha256(Path(folder))]
        for folder, strength in zip(args.adapter, strengths_of(args), strict=True)
    ]
    optional = {"negative_caption": args.negative, "adapters": adapters or None, "vocoder": args.vocoder}
    chosen = {key: getattr(args, key) for key in keys} | {k: v for k, v in optional.items() if v is not None}
    return {"model": model} | chosen | asdict(decoding_of(args))


def _adapter_sha256(folder: Path) -> str | None:
    files = [folder / name for name in ADAPTER_FILES]
    return files_sha256(files)[:16] if all(file.is_file() for file in files) else None  # reported when it is loaded


def strengths_of(args: argparse.Namespace) -> list[float]:
    """Return the strength of each adapter."""
    if len(args.strength) not in (0, len(args.adapter)):
        raise UserError(
            f"{len(args.adapter)} --adapter and {len(args.strength)} --strength: give one per adapter, or none"
        )
    return args.strength or [1.0] * len(args.adapter)


def load_pipeline(args: argparse.Namespace) -> ImpactPipeline:
    """Load the model that the options name, with its adapters."""
    from impact_pl.inference.pipeline import ImpactPipeline
    from impact_pl.models.adapters import apply_adapter

    pipeline = ImpactPipeline.from_pretrained(
        args.model, args.device, args.codec, args.text_encoder, allow_hub=args.allow_hub, vocoder=args.vocoder
    )
    for folder, strength in zip(args.adapter, strengths_of(args), strict=True):
        apply_adapter(pipeline.model, folder, strength)
    return pipeline


def entry_of(job: Job, settings: dict) -> dict:
    """Build a job's line of generated.jsonl."""
    return {"file": job.file.name, "caption": job.caption, "seed": job.seed} | settings


def read_finished(out: Path) -> dict[str, dict]:
    """Read generated.jsonl: file name -> its newest entry."""
    log = out / "generated.jsonl"
    if is_one_file(out) or not log.is_file():
        return {}
    entries = {}
    for line in log.read_text(encoding="utf-8").split("\n"):
        try:
            entry = json.loads(line)
            entries[entry["file"]] = entry
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # cut short by a kill; that file counts as not finished
    return entries


def is_finished(job: Job, settings: dict, finished: dict[str, dict]) -> bool:
    return finished.get(job.file.name) == entry_of(job, settings) and job.file.is_file()


def remember(out: Path, batch: list[Job], settings: dict) -> None:
    """Record in generated.jsonl what a batch's files were generated with."""
    if is_one_file(out):  # a single file is always generated again
        return
    log = out / "generated.jsonl"
    cut_short = log.is_file() and not log.read_bytes().endswith(b"\n")
    with open(log, "a", encoding="utf-8") as stream:
        stream.write("\n" * cut_short)
        for job in batch:
            stream.write(json.dumps(entry_of(job, settings)) + "\n")
