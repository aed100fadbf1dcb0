"""`python -m impact_pl.cli.reconstruct`: a manifest's clips as they are, and as the codec gives them back.

What the codec loses is the floor under every generated sound, so a report shows real | reconstructed | generated.
"""

import argparse
from pathlib import Path

import torch

from impact_pl.audio import PADDINGS, fit_length, load_audio, save_audio
from impact_pl.cli import options
from impact_pl.codecs.base import AudioCodec
from impact_pl.codecs.registry import load_codec
from impact_pl.data.manifest import Record, file_stem, file_stems, read_manifest
from impact_pl.errors import UserError, user_errors
from impact_pl.progress import progress


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m impact_pl.cli.reconstruct", description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.jsonl")
    parser.add_argument("--split", help="only the records of this split")
    parser.add_argument("--limit", type=options.positive_int, help="a random choice of so many clips (seeded)")
    parser.add_argument("--seed", type=options.seed, default=0)
    parser.add_argument("--duration", type=options.seconds, required=True, help="seconds; shorter clips are padded")
    parser.add_argument("--padding", choices=PADDINGS, default="silence", help="after shorter clips (default: silence)")
    parser.add_argument("--real", type=Path, required=True, help="folder for the clips themselves (.flac)")
    parser.add_argument("--reconstructed", type=Path, help="folder for the codec's reconstructions (.flac)")
    parser.add_argument("--codec", default="builtin", help="codec name or folder (default: builtin)")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    records = choose(read_manifest(args.manifest), args.split, args.limit, args.seed)
    file_stems([record.id for record in records])  # no two of one name
    codec = load_codec(args.codec)
    with progress("reconstructing", len(records)) as bar:
        for record in records:
            write_clip(record, codec, args.duration, args.reconstructed, args.real, args.padding)
            bar.advance()
    print(f"{len(records)} clips in {args.real}" + (f" and {args.reconstructed}" if args.reconstructed else ""))


def write_clip(
    record: Record,
    codec: AudioCodec,
    duration: float,
    reconstructed: Path | None,
    real: Path | None = None,
    padding: str = "silence",
) -> None:
    """One record into the folders where it is not yet: as the codec gives it back, and as it is."""
    name = file_stem(record.id) + ".flac"
    folders = [folder for folder in (real, reconstructed) if folder is not None and not (folder / name).is_file()]
    if not folders:
        return
    waveform = load_audio(record.path, codec.sample_rate, record.start, min(record.duration or 1e9, duration))
    waveform = fit_length(waveform, round(duration * codec.sample_rate), padding)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        sound = waveform if folder is real else reconstruct(codec, waveform)
        save_audio(folder / name, sound, codec.sample_rate)


def choose(records: list[Record], split: str | None, limit: int | None, seed: int) -> list[Record]:
    """The captioned records of ``split``; at most ``limit`` of them, drawn with ``seed`` and in manifest order."""
    chosen = [record for record in records if split in (None, record.split) and record.caption]
    if not chosen:
        splits = sorted({record.split for record in records})
        raise UserError(f"no captioned record in split {split!r}; the manifest has the splits {splits}")
    if limit is None or limit >= len(chosen):
        return chosen
    keep = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))[:limit]
    return [chosen[i] for i in sorted(keep.tolist())]


@torch.inference_mode()
def reconstruct(codec: AudioCodec, waveform: torch.Tensor) -> torch.Tensor:
    """(S,) -> (S,): through the codec's mean latents and back."""
    mean, _ = codec.encode(waveform[None]).chunk(2, dim=1)  # (1, C, H, W)
    return codec.decode(mean)[0, : len(waveform)].clamp(-1, 1)


if __name__ == "__main__":
    main()
