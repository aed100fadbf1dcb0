"""Precompute latent shards from a manifest: codec moments of fixed-length segments, and text features.

``out/<split>/`` gets ``000000.tar``, ... and, once everything is done, ``index.json``. ``out/rejected.jsonl`` lists
rejected records with reasons. The bytes of a shard are a function of (manifest, configuration) only, independent of the
process that writes it, so any number of processes on any number of machines can share the work, be killed, and be
restarted.

Dimension key: B batch, S waveform samples, C latent channels, H latent frames, W latent width.
"""

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor

from impact_pl.codecs.base import AudioCodec
from impact_pl.codecs.registry import load_codec
from impact_pl.config import PrecomputeConfig
from impact_pl.data.index import Latents, Producer
from impact_pl.data.manifest import Record, read_manifest
from impact_pl.data.shards import LatentDataset, ShardIndex, ShardWriter, describe_shard
from impact_pl.errors import UserError
from impact_pl.partial import sweep_partials, write_whole
from impact_pl.precision import find_device
from impact_pl.precompute.notes import ShardNote, done_path, read_done
from impact_pl.precompute.plan import Shard, check_settings, claim, find_share, is_complete, plan_shards
from impact_pl.precompute.segments import Reject, Segment, batches, usable_segments
from impact_pl.precompute.statistics import LatentSums, latent_statistics
from impact_pl.precompute.workers import run_workers
from impact_pl.progress import progress
from impact_pl.text_encoders.base import TextEncoder
from impact_pl.text_encoders.registry import load_text_encoder

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(pool: Executor, call: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
    """Yield ``call(item)`` for each item in order, while computing the next ``count`` in the background."""
    running: deque[Future[Result]] = deque()
    for item in items:
        running.append(pool.submit(call, item))
        if len(running) > count:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def usable_cores() -> int:
    """Count the cores that this process may run on (a SLURM job's share, not the machine's)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Limit every thread of this process to computing on one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


TEXT_BATCH = 64
SEGMENTS_AHEAD = 8  # per record; further segments of a longer recording are read on demand
MOST_THREADS = 8  # per process; workers= adds processes

Loaded = tuple[Iterator[Segment], list[Reject]]  # of a record; rejects are complete once all segments are read
Encoded = list[tuple[Segment, Tensor]]  # of a batch: segments and their moments (2C, H, W) in 16 bits


class Precomputer:
    """A precomputing run, with everything that its shards depend on.

    Raises:
        UserError: A setting is out of range, or the manifest cannot be read.
    """

    def __init__(self, config: PrecomputeConfig, codec: AudioCodec, text_encoder: TextEncoder | None) -> None:
        self.config, self.codec, self.text_encoder = config, codec, text_encoder
        check_settings(config, codec)
        self.device = find_device(config.device)
        # Several threads would need a GPU's memory several times, and gain nothing there.
        self._device_lock: AbstractContextManager = nullcontext() if self.device == "cpu" else threading.Lock()
        self.out = Path(config.out)
        self.records = read_manifest(config.manifest)
        self.shards = plan_shards(self.records, self.out, config.samples_per_shard)
        self.splits = list(dict.fromkeys(shard.split for shard in self.shards))
        self.task, self.num_tasks = find_share(config, os.environ)

    def run(self) -> None:
        """Write the missing shards of this task's share. A finished run prints so and changes nothing.

        Raises:
            UserError: ``out`` was started with other inputs, a shard cannot be written, or no sample is usable.
        """
        claim(self.config, self.codec, self.text_encoder, self.shards)
        for split in self.splits:
            (self.out / split).mkdir(exist_ok=True)
            sweep_partials(self.out / split)
        if all(is_complete(self.out / split) for split in self.splits):
            counts = ", ".join(f"{split} {len(LatentDataset(self.out / split))}" for split in self.splits)
            print(f"{self.out}: nothing to do, all shards are there (samples: {counts})")
            return
        share = range(self.task, len(self.shards), self.num_tasks)
        todo = [number for number in share if read_done(self.shards[number].path) is None]
        if len(todo) < len(share):
            print(f"{len(share) - len(todo)} of {len(share)} shards were finished before", flush=True)
        left, total = (sum(len(self.shards[number].records) for number in numbers) for numbers in (todo, share))
        with progress(self._name, total, total - left) as shown:
            if min(self.config.workers, len(todo)) > 1:
                run_workers(write_share, self.config, todo, shown.advance)
            else:
                self.write(todo, shown.advance)
        missing = sum(not done_path(shard.path).is_file() for shard in self.shards)  # cheap, unless this is the end
        done = [] if missing else [read_done(shard.path) for shard in self.shards]
        missing += sum(note is None for note in done)
        if missing:
            print(f"{self._name} done; {missing} shards of others are missing; the last one writes the index")
        else:
            self._finish([(shard.split, note) for shard, note in zip(self.shards, done, strict=True) if note])

    @property
    def _name(self) -> str:
        return f"task {self.task} of {self.num_tasks}" if self.num_tasks > 1 else "records"

    def write(self, numbers: list[int], advance: Callable[[], None], threads: int = 0) -> None:
        """Write the shards with these numbers.

        Threads read, cut, resample and encode ahead of the writing thread. Each computes on one core, so that all cores
        are used and results do not depend on the number of threads.

        Args:
            numbers: Numbers of the shards.
            advance: Called when a record is done.
            threads: Number of threads; 0: one per available core, divided by ``workers``.
        """
        shards = [self.shards[number] for number in numbers]
        threads = threads or min(MOST_THREADS, max(1, usable_cores() // self.config.workers))
        pool = ThreadPoolExecutor(threads)
        with one_thread_each():
            try:
                texts = ahead(pool, self._encode_captions, shards, 1)
                records = chain.from_iterable(shard.records for shard in shards)
                loaded = ahead(pool, self._load, records, 2 * self.config.batch_size + 2 * threads)
                encode = partial(ahead, pool, self._encode, count=2 * threads)
                for shard in shards:
                    self._write_shard(shard, next(texts), islice(loaded, len(shard.records)), encode, advance)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _write_shard(
        self,
        shard: Shard,
        text: dict[str, dict[str, Tensor]],
        loaded: Iterator[Loaded],
        encode: Callable[[Iterator[list[Segment]]], Iterator[Encoded]],
        advance: Callable[[], None],
    ) -> None:
        rejects: list[Reject] = []
        not_finite: list[Reject] = []
        sums: list[LatentSums] = []
        with ShardWriter(shard.path) as writer:
            for batch in encode(batches(self._segments(loaded, rejects, advance), self.config.batch_size)):
                kept = []
                for segment, sample in batch:
                    record = segment.record
                    if not torch.isfinite(sample).all():
                        reason = "its latents are not finite in 16 bits"
                        not_finite.append(Reject(record.id, record.path, segment.start, reason))
                        continue
                    meta = {key: getattr(record, key) for key in ("id", "caption", "source", "licence", "split")}
                    meta |= {"labels": list(record.labels)} if record.labels else {}
                    writer.add(segment.key, sample, text.get(record.caption or "", {}), meta)
                    kept.append(sample)
                sums.append(LatentSums.of(kept, self.codec.latent_channels))
        whole = LatentSums.sum_of(sums, self.codec.latent_channels)
        ShardNote(describe_shard(shard.path), [whole], rejects + not_finite).save(shard.path)

    def _load(self, numbered: tuple[int, Record]) -> Loaded:
        rejects: list[Reject] = []
        index, record = numbered
        segments = usable_segments(
            index, record, self.config.clip_seconds, self.codec.sample_rate, rejects, self.config.padding
        )
        first = list(islice(segments, SEGMENTS_AHEAD))
        return chain(first, segments), rejects

    def _segments(
        self, loaded: Iterator[Loaded], rejects: list[Reject], advance: Callable[[], None]
    ) -> Iterator[Segment]:
        for segments, rejected in loaded:
            yield from segments
            rejects += rejected
            advance()

    @torch.no_grad()
    def _encode(self, batch: list[Segment]) -> Encoded:
        waveforms = torch.stack([segment.waveform for segment in batch])  # (B, S)
        with self._device_lock:
            moments = self.codec.encode(waveforms.to(self.device)).half().cpu()  # (B, 2C, H, W)
        return list(zip(batch, moments, strict=True))

    def _encode_captions(self, shard: Shard) -> dict[str, dict[str, Tensor]]:
        if self.text_encoder is None:
            return {}
        return encode_captions(self.text_encoder, [record.caption for _, record in shard.records if record.caption])

    def _finish(self, done: list[tuple[str, ShardNote]]) -> None:
        """Compute the latents' statistics, write the indexes and the list of rejects, and print a summary.

        Two processes may do this at the same time, because they write the same bytes.

        Args:
            done: (split, note) of every shard.
        """
        rejects = [reject for _, part in done for reject in part.rejected]
        rejected = self.out / "rejected.jsonl"
        write_whole(rejected, "".join(json.dumps(asdict(reject), ensure_ascii=False) + "\n" for reject in rejects))
        entries = {name: [part.shard for split, part in done if split == name] for name in self.splits}
        counts = {split: sum(entry["num_samples"] for entry in shards) for split, shards in entries.items()}
        measured = ["train"] if "train" in counts else self.splits
        if not sum(counts[split] for split in measured):
            raise UserError(f"not one usable sample ({rejected} has the reasons), first: {rejects[0].reason}")
        sums = [part for split, note in done if split in measured for part in note.sums]
        mean, std = latent_statistics(sums)
        codec: Producer = {
            "name": self.codec.name,
            "identity": self.codec.identity,
            "sample_rate": self.codec.sample_rate,
            "samples_per_latent": self.codec.samples_per_latent,
        }
        frames = round(self.config.clip_seconds * self.codec.sample_rate) // self.codec.samples_per_latent  # H
        shape = [self.codec.latent_channels, frames, self.codec.latent_width]
        latents: Latents = {"shape": shape, "mean": mean, "std": std}
        text = cast(Producer, self.text_encoder.describe()) if self.text_encoder else None
        for split, shards in entries.items():
            filled = [entry for entry in shards if entry["num_samples"]]
            ShardIndex(codec, text, latents, self.config.clip_seconds, filled).save(self.out / split)
            sweep_partials(self.out / split)  # left by processes that were still exiting when this one started
        said = ", ".join(f"{split} {count} samples" for split, count in counts.items())
        where = f" ({rejected} has the reasons)" if rejects else ""
        print(f"{self.out}: {said} of {self.config.clip_seconds:g} s; {len(rejects)} rejected{where}")


@torch.no_grad()
def encode_captions(encoder: TextEncoder, captions: list[str]) -> dict[str, dict[str, Tensor]]:
    """Encode the distinct captions, as shards store them: caption -> feature -> (L_real, d)."""
    captions = list(dict.fromkeys(captions))
    encoded: dict[str, dict[str, Tensor]] = {}
    lengths = [length for length, _ in encoder.features.values()]
    for first in range(0, len(captions), TEXT_BATCH):
        batch = captions[first : first + TEXT_BATCH]
        text = encoder.encode(batch)
        masks = dict(zip(encoder.features, text.mask.split(lengths, dim=1), strict=True))  # (B, L_i)
        for row, caption in enumerate(batch):
            encoded[caption] = {name: text.features[name][row][mask[row]] for name, mask in masks.items()}
    return encoded


def load_models(config: PrecomputeConfig) -> tuple[AudioCodec, TextEncoder | None]:
    """Load the codec and the text encoder that ``config`` names.

    Raises:
        UserError: One of them is not available.
    """
    device = find_device(config.device)
    codec = load_codec(config.codec, device)
    has_text = config.text_encoder not in ("", "none")
    return codec, load_text_encoder(config.text_encoder, device) if has_text else None


def write_share(config: PrecomputeConfig, numbers: list[int], advance: Callable[[], None]) -> None:
    """Write the shards with these numbers in a separate process."""
    Precomputer(config, *load_models(config)).write(numbers, advance)
