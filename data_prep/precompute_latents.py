"""Manifest -> latent shards: codec moments of fixed-length segments, text features, and what had to be rejected.

``out/<split>/`` gets ``000000.tar``, ... and, when all is done, ``index.json``; ``out/rejected.jsonl`` says what was
left out and why. A shard holds the segments of ``samples_per_shard`` consecutive records of its split, so its bytes are
a function of (manifest, configuration) alone. ``000000.done.json`` beside it (index entry, sums for the statistics,
rejects) marks it as finished; an interrupted run continues with the shards that have none.

Dimension key: B batch, S waveform samples, C latent channels, H latent frames, W latent width.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from impact_pl.codec import AudioCodec
from impact_pl.config import PrecomputeConfig
from impact_pl.data.manifest import Record, read_manifest
from impact_pl.data.shards import LatentDataset, ShardIndex, ShardWriter, describe_shard
from impact_pl.data_prep.segments import Reject, Segment, batches, usable_segments
from impact_pl.progress import Bar, Lines, progress
from impact_pl.text import TextEncoder

TEXT_BATCH = 64


@dataclass
class LatentSums:
    """Sums over raw latents z = mean + std * noise of a split, a channel each: enough for its statistics."""

    count: int  # latents a channel
    total: list[float]  # of z, (C,)
    squares: list[float]  # of z^2, (C,)

    @classmethod
    def of(cls, samples: list[Tensor], num_channels: int) -> "LatentSums":
        """Of samples' moments (2C, H, W)."""
        total, squares = torch.zeros(2, num_channels, dtype=torch.float64)
        count = 0
        for moments in samples:
            mean, std = moments.double().chunk(2)  # (C, H, W) each
            total = total + mean.sum(dim=(1, 2))
            squares = squares + (mean**2 + std**2).sum(dim=(1, 2))  # E[z^2] = mean^2 + std^2
            count += mean[0].numel()
        return cls(count, total.tolist(), squares.tolist())


def latent_statistics(parts: Iterable[LatentSums]) -> tuple[list[float], float]:
    """Mean of each channel (C,) and one standard deviation over all.

    Note:
        One standard deviation keeps the channels' relative scale, which is the codec's choice: it is the root of the
        channels' mean variance about their own means.
    """
    parts = list(parts)
    count = sum(part.count for part in parts)
    mean = torch.tensor([part.total for part in parts], dtype=torch.float64).sum(dim=0) / count  # (C,)
    squares = torch.tensor([part.squares for part in parts], dtype=torch.float64).sum(dim=0) / count
    std = (squares - mean**2).mean().clamp(min=0).sqrt().item()
    if std < 1e-8:
        raise ValueError("the latents of the train split do not vary: is every clip the same?")
    return mean.tolist(), std


class Precomputer:
    """One run: everything that its shards depend on.

    Raises:
        ValueError: a setting out of range, or a manifest that cannot be read.
    """

    def __init__(self, config: PrecomputeConfig, codec: AudioCodec, text_encoder: TextEncoder | None) -> None:
        self.config, self.codec, self.text_encoder = config, codec, text_encoder
        check_settings(config, codec)
        self.out = Path(config.out)
        self.records = read_manifest(config.manifest)
        self.shards: dict[str, list[tuple[Path, list[tuple[int, Record]]]]] = {}  # split -> (file, its records)
        size = config.samples_per_shard
        for split in dict.fromkeys(record.split for record in self.records):
            records = [(i, record) for i, record in enumerate(self.records) if record.split == split]
            chunks = [records[first : first + size] for first in range(0, len(records), size)]
            self.shards[split] = [(self.out / split / f"{n:06d}.tar", chunk) for n, chunk in enumerate(chunks)]

    def run(self) -> None:
        """Write what is missing; a finished run says so and changes nothing.

        Raises:
            ValueError: ``out`` was begun with other inputs, a shard cannot be written, or not one sample was left.
        """
        self._claim_out()
        if all(is_complete(self.out / split) for split in self.shards):
            counts = ", ".join(f"{split} {len(LatentDataset(self.out / split))}" for split in self.shards)
            print(f"{self.out}: nothing to do, all shards are there (samples: {counts})")
            return
        for split, shards in self.shards.items():
            (self.out / split).mkdir(exist_ok=True)
            todo = [(path, records) for path, records in shards if read_done(path) is None]
            if len(todo) < len(shards):
                print(f"{split}: {len(shards) - len(todo)} of {len(shards)} shards were finished before", flush=True)
            left = sum(len(records) for _, records in todo)
            total = sum(len(records) for _, records in shards)
            with progress(split, total, total - left) as shown:
                for path, records in todo:
                    self._write_shard(path, records, shown)
        self._finish()

    def _claim_out(self) -> None:
        """Note in ``out/run.json`` what the shards depend on, or compare with what an earlier call noted."""
        encoder = self.text_encoder
        run = {
            "manifest": hashlib.sha256(Path(self.config.manifest).read_bytes()).hexdigest()[:16],
            "codec": f"{self.codec.name} {self.codec.identity}",
            "text_encoder": f"{encoder.name} {encoder.identity}" if encoder else None,
            "clip_seconds": self.config.clip_seconds,
            "samples_per_shard": self.config.samples_per_shard,
            "batch_size": self.config.batch_size,
        }
        path = self.out / "run.json"
        if path.is_file():
            begun = read_note(path, [], f"delete {self.out} to begin again")
            for key, value in run.items():
                if begun.get(key) != value:
                    raise ValueError(
                        f"{self.out} was begun with {key} {begun.get(key)}, not {value}: "
                        "choose another out=, or delete that folder to begin again"
                    )
            return
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(run, indent=1) + "\n")

    def _write_shard(self, path: Path, records: list[tuple[int, Record]], shown: Bar | Lines) -> None:
        text = self._encode_captions(list(dict.fromkeys(record.caption for _, record in records if record.caption)))
        rejects: list[Reject] = []
        sums: list[LatentSums] = []
        with ShardWriter(path) as writer:
            for batch in batches(self._segments(records, rejects, shown), self.config.batch_size):
                moments = self._encode(batch)  # (B, 2C, H, W)
                kept = []
                for segment, sample in zip(batch, moments, strict=True):
                    record = segment.record
                    if not torch.isfinite(sample).all():
                        reason = "its latents are not finite in 16 bits"
                        rejects.append(Reject(record.id, record.path, segment.start, reason))
                        continue
                    meta = {key: getattr(record, key) for key in ("id", "caption", "source", "licence", "split")}
                    writer.add(segment.key, sample, text.get(record.caption or "", {}), meta)
                    kept.append(sample)
                sums.append(LatentSums.of(kept, self.codec.latent_channels))
        done = {
            "shard": describe_shard(path),
            "sums": [asdict(part) for part in sums],
            "rejected": [asdict(reject) for reject in rejects],
        }
        write_text(done_path(path), json.dumps(done, ensure_ascii=False) + "\n")

    def _segments(
        self, records: list[tuple[int, Record]], rejects: list[Reject], shown: Bar | Lines
    ) -> Iterator[Segment]:
        for index, record in records:
            yield from usable_segments(index, record, self.config.clip_seconds, self.codec.sample_rate, rejects)
            shown.advance()

    @torch.no_grad()
    def _encode(self, batch: list[Segment]) -> Tensor:
        waveforms = torch.stack([segment.waveform for segment in batch]).to(self.config.device)  # (B, S)
        return self.codec.encode(waveforms).half().cpu()  # (B, 2C, H, W)

    def _encode_captions(self, captions: list[str]) -> dict[str, dict[str, Tensor]]:
        """Distinct captions -> feature -> (L_real, d)."""
        encoded: dict[str, dict[str, Tensor]] = {}
        if self.text_encoder is None:
            return encoded
        for first in range(0, len(captions), TEXT_BATCH):
            batch = captions[first : first + TEXT_BATCH]
            text = self.text_encoder.encode(batch)
            lengths = [length for length, _ in self.text_encoder.features.values()]
            masks = dict(zip(self.text_encoder.features, text.mask.split(lengths, dim=1), strict=True))  # (B, L_i)
            for row, caption in enumerate(batch):
                encoded[caption] = {name: text.features[name][row][mask[row]] for name, mask in masks.items()}
        return encoded

    def _finish(self) -> None:
        """Statistics of the train split, an index a split, all rejects in one file, and a word on what was done."""
        found = {split: [read_done(path) for path, _ in shards] for split, shards in self.shards.items()}
        done = {split: [part for part in parts if part is not None] for split, parts in found.items()}
        assert done == found, "a shard vanished while this ran"
        rejects = [reject for parts in done.values() for part in parts for reject in part["rejected"]]
        rejected = self.out / "rejected.jsonl"
        write_text(rejected, "".join(json.dumps(reject, ensure_ascii=False) + "\n" for reject in rejects))
        entries = {split: [part["shard"] for part in parts] for split, parts in done.items()}
        counts = {split: sum(entry["num_samples"] for entry in shards) for split, shards in entries.items()}
        measured = ["train"] if "train" in self.shards else list(self.shards)
        if not sum(counts[split] for split in measured):
            raise ValueError(f"not one usable sample ({rejected} has the reasons), first: {rejects[0]['reason']}")
        sums = [LatentSums(**part) for split in measured for shard in done[split] for part in shard["sums"]]
        mean, std = latent_statistics(sums)
        codec = {key: getattr(self.codec, key) for key in ("name", "identity", "sample_rate", "samples_per_latent")}
        frames = round(self.config.clip_seconds * self.codec.sample_rate) // self.codec.samples_per_latent  # H
        latents = {"shape": [self.codec.latent_channels, frames, self.codec.latent_width], "mean": mean, "std": std}
        text, encoder = None, self.text_encoder
        if encoder is not None:
            features = {name: list(size) for name, size in encoder.features.items()}
            text = {"name": encoder.name, "identity": encoder.identity, "features": features}
        for split, shards in entries.items():
            filled = [entry for entry in shards if entry["num_samples"]]
            ShardIndex(codec, text, latents, self.config.clip_seconds, filled).save(self.out / split)
        said = ", ".join(f"{split} {count} samples" for split, count in counts.items())
        where = f" ({rejected} has the reasons)" if rejects else ""
        print(f"{self.out}: {said} of {self.config.clip_seconds:g} s; {len(rejects)} rejected{where}")


def check_settings(config: PrecomputeConfig, codec: AudioCodec) -> None:
    """ValueError for settings that cannot work."""
    for key in ("samples_per_shard", "batch_size"):
        if getattr(config, key) < 1:
            raise ValueError(f"{key}={getattr(config, key)}: at least 1")
    if not (math.isfinite(config.clip_seconds) and config.clip_seconds > 0):
        raise ValueError(f"clip_seconds={config.clip_seconds}: must be above 0")
    num_samples = round(config.clip_seconds * codec.sample_rate)
    frames = max(1, round(num_samples / codec.samples_per_latent))
    if num_samples != frames * codec.samples_per_latent:
        step = codec.samples_per_latent / codec.sample_rate
        raise ValueError(
            f"clip_seconds={config.clip_seconds:g} is no multiple of {step:g} s, a latent frame of codec "
            f"{codec.name}; the nearest is {frames * step:g}"
        )


def done_path(shard: Path) -> Path:
    """Beside a shard: the file that marks it as finished."""
    return shard.with_suffix(".done.json")


def read_done(shard: Path) -> dict | None:
    """What was noted of a finished shard; None where it is not finished, missing or cut short."""
    if not (done_path(shard).is_file() and shard.is_file()):
        return None
    remedy = "delete that file: the same command then makes its shard again"
    done = read_note(done_path(shard), ["shard", "sums", "rejected"], remedy)
    return done if shard.stat().st_size == done["shard"]["bytes"] else None


def read_note(path: Path, keys: list[str], remedy: str) -> dict:
    """A JSON object that an earlier call wrote; ValueError with ``remedy`` where it is damaged."""
    try:
        note = json.loads(path.read_bytes())
    except ValueError as error:  # of JSON or UTF-8
        raise ValueError(f"{path}: damaged ({error}); {remedy}") from error
    if not (isinstance(note, dict) and all(key in note for key in keys)):
        raise ValueError(f"{path}: damaged (not what impact-precompute writes); {remedy}")
    return note


def is_complete(folder: Path) -> bool:
    """Whether a split has its index and all shards that this lists."""
    try:
        LatentDataset(folder)
    except ValueError:
        return False
    return True


def write_text(path: Path, content: str) -> None:
    """Write a small file, complete or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(content, encoding="utf-8")
    os.replace(partial, path)
