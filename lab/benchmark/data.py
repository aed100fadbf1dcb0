"""Time reading shards: clips/s and MB/s of the training's DataLoader in its shuffled order, per number of workers.

Two simple alternatives stand next to it: (a) reading the same files' bytes from end to end, (b) a webdataset pipeline
that decodes, shuffles and batches the same shards to the same tensors. All variants are repeated in turns, so that a
change of the machine's load affects all of them; medians are reported.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from impact_pl.data.index import Latents, Producer, ShardIndex
from impact_pl.data.loader import latent_loader
from impact_pl.data.order import SampleStream, SlotSampler
from impact_pl.data.shards import LatentDataset, ShardWriter, collate, describe_shard
from impact_pl.errors import UserError
from impact_pl.models.spec import ImpactSpec

CAPTION_POSITIONS = 15
BATCHES_A_WORKER = 8  # at least, because up to two batches per worker are read ahead
Timed = Callable[[], tuple[int, int, float]]  # clips, bytes and seconds of one repetition
Against = dict[str, dict[str, str]]  # column -> row -> baseline row


@dataclass(frozen=True)
class Reading:
    """Options of ``python -m lab.benchmark reading``. ``data`` is the `out` folder of `impact precompute`."""

    data: Path
    split: str = "train"
    workers: tuple[int, ...] = (0, 1, 2)  # DataLoader processes to try
    batch_size: int = 16
    epochs: int = 3  # over the set, per repetition


def measure(variants: dict[str, Timed], against: Against, repeats: int) -> list[dict]:
    """Measure rows of a record: medians of clips/s and bytes/s, and ratios to the rows in ``against``, by column."""
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, call in variants.items():
            clips, num_bytes, elapsed = call()
            rates[name].append((clips / elapsed, num_bytes / elapsed))
    medians = {
        name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in rates.items()
    }
    rows = []
    for name, (clips_per_second, bytes_per_second) in medians.items():
        times = {key: clips_per_second / medians[other[name]][0] for key, other in against.items() if name in other}
        rows.append(
            {
                "variant": name,
                "clips_per_second": clips_per_second,
                "bytes_per_second": bytes_per_second,
                "times": times,
            }
        )
    return rows


def reading_variants(args: Reading) -> tuple[dict[str, Timed], Against]:
    """Define what is timed by name, and the baseline of each."""
    folder = args.data / args.split
    dataset = LatentDataset(folder)
    size = sum(shard["bytes"] for shard in dataset.index.shards)
    steps = len(dataset) * args.epochs // args.batch_size
    most = max(1, *args.workers)
    if steps < BATCHES_A_WORKER * most:
        raise UserError(
            f"{folder} has {len(dataset)} clips: too few for --batch-size {args.batch_size}; {args.epochs} epoch(s) "
            f"are {steps} batches, and {most} process(es) want {BATCHES_A_WORKER * most}: choose smaller batches, "
            "fewer --workers or more --epochs"
        )

    def loader(workers: int) -> DataLoader:
        stream = SampleStream(dataset.sizes, seed=0)
        sampler = SlotSampler(stream, args.batch_size, start=0, steps_done=0, max_steps=steps)
        return latent_loader(dataset, sampler, workers)

    def webdataset_loader(workers: int) -> DataLoader:
        pipeline, pins = webdataset_pipeline(dataset, args), torch.cuda.is_available()  # pinned as in ours
        return DataLoader(pipeline, batch_size=None, num_workers=workers, pin_memory=pins)

    def read(make: Callable[[int], DataLoader], workers: int) -> Timed:
        return lambda: drain(make(workers), size / len(dataset))

    variants: dict[str, Timed] = {"(a) the files' bytes": lambda: read_bytes(dataset, args.epochs)}
    against: Against = {"(a)": {}, "(b)": {}}
    for workers in args.workers:
        ours, theirs = f"impact_pl, {workers} worker(s)", f"(b) webdataset, {workers} worker(s)"
        variants |= {theirs: read(webdataset_loader, workers), ours: read(loader, workers)}
        against["(a)"][ours], against["(b)"][ours] = "(a) the files' bytes", theirs
    return variants, against


def read_bytes(dataset: LatentDataset, epochs: int) -> tuple[int, int, float]:
    start, count = time.perf_counter(), 0
    for _ in range(epochs):
        for number in range(len(dataset.sizes)):
            count += len(Path(dataset.path(number)).read_bytes())
    return len(dataset) * epochs, count, time.perf_counter() - start


def drain(loader: DataLoader, bytes_per_clip: float) -> tuple[int, int, float]:
    """Read a loader to its end, timed from each worker's first batch to the last batch."""
    batches, clips = iter(loader), 0
    for _ in range(max(1, loader.num_workers)):
        next(batches)
    start = end = time.perf_counter()
    for batch in batches:
        clips, end = clips + len(batch["keys"]), time.perf_counter()
    return clips, round(clips * bytes_per_clip), end - start


def webdataset_pipeline(dataset: LatentDataset, args: Reading) -> Any:
    """Build a webdataset pipeline of the same batches, in another order."""
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


def random_shards(
    folder: Path, spec: ImpactSpec, num_frames: int, clips: int = 512, per_shard: int = 128, split: str = "train"
) -> Path:
    """Write random shards that fit ``spec`` below ``folder``. Reading them costs as much as reading real ones.

    Captions have the average number of positions of AudioCaps' captions.
    """
    generator = torch.Generator().manual_seed(0)
    out = folder / split
    out.mkdir(parents=True)
    shape = (2 * spec.latent_channels, num_frames, spec.latent_width)
    paths = [out / f"{number:06d}.tar" for number in range(-(-clips // per_shard))]
    for number, path in enumerate(paths):
        with ShardWriter(path) as writer:
            for index in range(number * per_shard, min(clips, (number + 1) * per_shard)):
                text = {
                    name: torch.randn(min(length, CAPTION_POSITIONS), size, generator=generator)
                    for name, (length, size) in spec.text_features.items()
                }
                moments = torch.rand(shape, generator=generator)
                writer.add(f"{index:08d}", moments, text, {"id": str(index), "caption": "noise", "split": split})
    features = {name: list(size) for name, size in spec.text_features.items()}
    made_by: Producer = {"name": "random", "identity": "random"}
    encoder: Producer | None = {**made_by, "features": features} if features else None
    latents: Latents = {"shape": [shape[0] // 2, *shape[1:]], "mean": spec.latent_mean, "std": spec.latent_std}
    shards = [describe_shard(path) for path in paths]
    ShardIndex(made_by, encoder, latents, num_frames / 25, shards).save(out)
    return folder
