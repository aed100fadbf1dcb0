"""`python -m impact_pl.cli.benchmark reading|precompute`: how fast shards are read and made, against plain ways.

reading: clips/s and MB/s of the training's DataLoader in its shuffled order, for each number of worker processes,
against (a) reading the same files' bytes from end to end, (b) a webdataset pipeline that decodes, shuffles and batches
the same shards to the same tensors.

precompute: clips/s of impact-precompute with one process and with two (in the middle half of the records, when all
processes are at work), against the plain loop: one clip after the other is loaded, resampled, encoded and written.
--rate writes the clips at another sampling rate first.

Every way is repeated, in turns, so that a change of the machine's load meets all of them; the medians are printed as
a Markdown table.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from impact_pl.audio import load_audio, save_audio
from impact_pl.cli.options import positive_int, seconds
from impact_pl.config import PrecomputeConfig
from impact_pl.data.manifest import read_manifest, write_manifest
from impact_pl.data.order import SampleStream, SlotSampler
from impact_pl.data.shards import LatentDataset, ShardWriter, collate
from impact_pl.data_prep.plan import read_shard_note
from impact_pl.data_prep.precompute_latents import Precomputer, load_models
from impact_pl.data_prep.segments import usable_segments
from impact_pl.data_prep.workers import run_workers
from impact_pl.errors import user_errors

Way = Callable[[], tuple[int, int, float]]  # clips, bytes and seconds of one repeat


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m impact_pl.cli.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parsers = parser.add_subparsers(dest="what", required=True)
    reading = parsers.add_parser("reading", help="how fast shards are read")
    reading.add_argument("--data", type=Path, required=True, help="the `out` folder of impact-precompute")
    reading.add_argument("--split", default="train")
    reading.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="DataLoader processes to try")
    reading.add_argument("--batch-size", type=positive_int, default=16)
    reading.add_argument("--epochs", type=positive_int, default=3, help="of the set, in a repeat")
    precompute = parsers.add_parser("precompute", help="how fast shards are made")
    precompute.add_argument("--manifest", type=Path, required=True)
    precompute.add_argument("--clips", type=positive_int, default=200, help="records, drawn from the manifest")
    precompute.add_argument("--clip-seconds", type=seconds, default=10.24)
    precompute.add_argument("--text-encoder", default="none")
    precompute.add_argument("--workers", type=positive_int, nargs="+", default=[1, 2], help="processes to try")
    precompute.add_argument("--rate", type=positive_int, help="write the clips as WAV of this rate first")
    for command in (reading, precompute):
        command.add_argument("--repeats", type=positive_int, default=3)
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if args.what == "reading":
            ways, against = reading_ways(args)
        else:
            ways, against = precompute_ways(args, Path(folder))
        print_table(measure(ways, args.repeats), against)


def measure(ways: dict[str, Way], repeats: int) -> dict[str, tuple[float, float]]:
    """Medians of (clips/s, bytes/s), the ways taking turns."""
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            clips, num_bytes, elapsed = way()
            rates[name].append((clips / elapsed, num_bytes / elapsed))
    return {name: tuple(map(statistics.median, zip(*found, strict=True))) for name, found in rates.items()}


def print_table(rates: dict[str, tuple[float, float]], against: dict[str, dict[str, str]]) -> None:
    """``against``: column -> row -> the row that it is compared with."""
    print("| way | clips/s | MB/s |" + "".join(f" times {column} |" for column in against))
    print("|---|---:|---:|" + "---:|" * len(against))
    for name, (clips, num_bytes) in rates.items():
        cells = [f"{clips / rates[rows[name]][0]:.2f}" if name in rows else "" for rows in against.values()]
        print(f"| {name} | {clips:.0f} | {num_bytes / 1e6:.1f} |" + "".join(f" {cell} |" for cell in cells))


def reading_ways(args: argparse.Namespace) -> tuple[dict[str, Way], dict[str, dict[str, str]]]:
    folder = args.data / args.split
    dataset = LatentDataset(folder)
    size = sum(shard["bytes"] for shard in dataset.index.shards)
    steps = len(dataset) * args.epochs // args.batch_size
    if steps < 2:
        raise ValueError(f"{folder} has {len(dataset)} clips: too few for --batch-size {args.batch_size}")

    def loader(workers: int) -> DataLoader:
        stream = SampleStream(dataset.sizes, seed=0)
        sampler = SlotSampler(stream, args.batch_size, start=0, steps_done=0, max_steps=steps)
        return DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate)

    def webdataset_loader(workers: int) -> DataLoader:
        return DataLoader(webdataset_pipeline(dataset, args), batch_size=None, num_workers=workers)

    def read(make: Callable[[int], DataLoader], workers: int) -> Way:
        return lambda: drain(make(workers), size / len(dataset))

    ways: dict[str, Way] = {"(a) the files' bytes": lambda: read_bytes(dataset, args.epochs)}
    against: dict[str, dict[str, str]] = {"(a)": {}, "(b)": {}}
    for workers in args.workers:
        ours, theirs = f"impact_pl, {workers} worker(s)", f"(b) webdataset, {workers} worker(s)"
        ways |= {theirs: read(webdataset_loader, workers), ours: read(loader, workers)}
        against["(a)"][ours], against["(b)"][ours] = "(a) the files' bytes", theirs
    return ways, against


def read_bytes(dataset: LatentDataset, epochs: int) -> tuple[int, int, float]:
    start, count = time.perf_counter(), 0
    for _ in range(epochs):
        for number in range(len(dataset.sizes)):
            count += len(Path(dataset.path(number)).read_bytes())
    return len(dataset) * epochs, count, time.perf_counter() - start


def drain(loader: DataLoader, bytes_per_clip: float) -> tuple[int, int, float]:
    """Read a loader to its end; the clock starts at the first batch, when the workers are up."""
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    clips = sum(len(batch["keys"]) for batch in batches)
    return clips, round(clips * bytes_per_clip), time.perf_counter() - start


def webdataset_pipeline(dataset: LatentDataset, args: argparse.Namespace) -> Any:
    """The same batches (in another order) by webdataset's own means."""
    import webdataset

    features = dataset.index.text_features

    def to_sample(parts: dict[str, Any]) -> dict[str, Any]:
        text, masks = {}, []
        for name, (length, size) in features.items():
            stored = torch.from_numpy(parts.get(f"{name}.npy", torch.zeros(0, size).numpy())).float()
            text[name] = torch.nn.functional.pad(stored, (0, 0, 0, length - len(stored)))
            masks.append(torch.arange(length) < len(stored))
        mask = torch.cat(masks) if masks else torch.zeros(0, dtype=torch.bool)
        moments = torch.from_numpy(parts["moments.npy"]).float()
        caption = parts["json"]["caption"] or ""
        return {"key": parts["__key__"], "moments": moments, "text": text, "text_mask": mask, "caption": caption}

    urls = [dataset.path(number) for number in range(len(dataset.sizes))]
    pipeline = webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
    pipeline = pipeline.repeat(args.epochs).shuffle(1000).decode().map(to_sample)
    return pipeline.batched(args.batch_size, collation_fn=collate)


def precompute_ways(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Way], dict[str, dict[str, str]]]:
    write_clips(args, folder)
    config = PrecomputeConfig(
        manifest=str(folder / "manifest.jsonl"),
        out=str(folder),
        clip_seconds=args.clip_seconds,
        text_encoder=args.text_encoder,
        samples_per_shard=max(1, args.clips // 8),
    )
    maker = Precomputer(config, *load_models(config))
    numbers = list(range(len(maker.shards)))
    (folder / "train").mkdir()

    def pipeline(workers: int) -> tuple[int, int, float]:
        times: list[float] = []
        if workers == 1:
            maker.write(numbers, lambda: times.append(time.perf_counter()))
        else:
            run_workers(replace(config, workers=workers), numbers, lambda: times.append(time.perf_counter()))
        # The middle half: before it processes start one after the other, behind it they end so.
        first, last = len(times) // 4, 3 * len(times) // 4
        share = (last - first) / len(times)
        entries = [read_shard_note(shard.path)["shard"] for shard in maker.shards]
        clips, num_bytes = (round(share * sum(entry[key] for entry in entries)) for key in ("num_samples", "bytes"))
        return clips, num_bytes, times[last] - times[first]

    ways: dict[str, Way] = {"(a) plain loop": lambda: plain_loop(maker, folder / "plain.tar")}
    for workers in args.workers:
        ways[f"impact-precompute, {workers} process(es)"] = partial(pipeline, workers)
    return ways, {"(a)": dict.fromkeys(ways, "(a) plain loop")}


def write_clips(args: argparse.Namespace, folder: Path) -> None:
    """``folder/manifest.jsonl`` with so many records of the manifest; with ``--rate`` the sounds as well."""
    records = read_manifest(args.manifest)
    records = random.Random(0).sample(records, min(args.clips, len(records)))
    for number, record in enumerate(records):
        record.split = "train"
        if args.rate:
            waveform = load_audio(record.path, args.rate, record.start, record.duration)
            record.path, record.start, record.duration = str(folder / f"{number}.wav"), 0.0, None
            save_audio(record.path, waveform, args.rate)
    write_manifest(folder / "manifest.jsonl", records)


@torch.no_grad()
def plain_loop(maker: Precomputer, path: Path) -> tuple[int, int, float]:
    """One segment after the other, with as many threads as PyTorch likes."""
    config, codec, encoder = maker.config, maker.codec, maker.text_encoder
    start, count = time.perf_counter(), 0
    with ShardWriter(path) as writer:
        for index, record in enumerate(maker.records):
            for segment in usable_segments(index, record, config.clip_seconds, codec.sample_rate, []):
                text = {}
                if encoder is not None and record.caption:
                    text = {name: x[0] for name, x in encoder.encode([record.caption]).features.items()}
                writer.add(segment.key, codec.encode(segment.waveform[None])[0], text, asdict(record))
                count += 1
    return count, path.stat().st_size, time.perf_counter() - start


if __name__ == "__main__":
    main()
