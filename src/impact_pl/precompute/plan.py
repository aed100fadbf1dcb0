"""Plan which records make which shard, and which shards a task makes.

A shard holds the segments of ``samples_per_shard`` consecutive records of its split.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from impact_pl.codecs.base import AudioCodec
from impact_pl.config import PADDINGS, PrecomputeConfig
from impact_pl.data.manifest import Record
from impact_pl.data.shards import LatentDataset
from impact_pl.errors import UserError
from impact_pl.files import read_json
from impact_pl.partial import create_whole
from impact_pl.precision import describe_arithmetic, find_device
from impact_pl.precompute.notes import RunNote
from impact_pl.text_encoders.base import TextEncoder


@dataclass
class Shard:
    """A planned shard: its path, and the records (with their numbers in the manifest) that it contains."""

    split: str
    path: Path
    records: list[tuple[int, Record]]


def plan_shards(records: list[Record], out: Path, samples_per_shard: int) -> list[Shard]:
    """Plan the shards of all splits. A shard's index in this list is its number."""
    shards = []
    for split in dict.fromkeys(record.split for record in records):
        own = [(i, record) for i, record in enumerate(records) if record.split == split]
        for number, first in enumerate(range(0, len(own), samples_per_shard)):
            chunk = own[first : first + samples_per_shard]
            shards.append(Shard(split, shard_path(out, split, number), chunk))
    return shards


def shard_path(out: Path, split: str, number: int) -> Path:
    """Return the path of a split's shard, numbered from 0."""
    return out / split / f"{number:06d}.tar"


def find_share(config: PrecomputeConfig, environ: Mapping[str, str]) -> tuple[int, int]:
    """Return (task, num_tasks): this call writes the shards whose number modulo ``num_tasks`` is ``task``.

    Explicit keys take precedence over the SLURM array that this process belongs to. The default is (0, 1), everything.

    Raises:
        UserError: Only one key is given, a key is out of range, or the array's tasks are not evenly spaced.
    """
    task, num_tasks = config.task, config.num_tasks
    if (task, num_tasks) != (-1, 0):
        if not 0 <= task < num_tasks:
            raise UserError(f"task={task} num_tasks={num_tasks}: give both, with task from 0 to num_tasks - 1")
        return task, num_tasks
    if "SLURM_ARRAY_TASK_ID" not in environ:
        return 0, 1
    number, first, last, count = (int(environ[f"SLURM_ARRAY_TASK_{key}"]) for key in ("ID", "MIN", "MAX", "COUNT"))
    step = int(environ.get("SLURM_ARRAY_TASK_STEP") or 1)
    if (last - first) // step + 1 != count or (number - first) % step:
        raise UserError(
            f"the SLURM array has {count} tasks from {first} to {last} in steps of {step}: which shards are whose? "
            "Use --array=0-7 or the like, or pass task= and num_tasks="
        )
    return (number - first) // step, count


def check_settings(config: PrecomputeConfig, codec: AudioCodec) -> None:
    """Validate the settings of precomputing.

    Raises:
        UserError: A setting is out of range.
    """
    for key in ("samples_per_shard", "batch_size", "workers"):
        if getattr(config, key) < 1:
            raise UserError(f"{key}={getattr(config, key)}: at least 1")
    if not (math.isfinite(config.clip_seconds) and config.clip_seconds > 0):
        raise UserError(f"clip_seconds={config.clip_seconds}: must be above 0")
    if config.padding not in PADDINGS:
        raise UserError(f"padding={config.padding}: choose {' or '.join(PADDINGS)}")
    num_samples = round(config.clip_seconds * codec.sample_rate)
    frames = max(1, round(num_samples / codec.samples_per_latent))
    if num_samples != frames * codec.samples_per_latent:
        step = codec.samples_per_latent / codec.sample_rate
        raise UserError(
            f"clip_seconds={config.clip_seconds:g} is not a multiple of {step:g} s, a latent frame of codec "
            f"{codec.name}; the nearest is {frames * step:g}"
        )


def claim(config: PrecomputeConfig, codec: AudioCodec, encoder: TextEncoder | None, shards: list[Shard]) -> None:
    """Write everything that the shards depend on to ``out/run.json``, or compare it with an earlier call's.

    Raises:
        UserError: ``out`` was begun with other inputs.
    """
    out = Path(config.out)
    note = RunNote(
        manifest=manifest_identity(config.manifest),
        codec=f"{codec.name} {codec.identity}",
        text_encoder=f"{encoder.name} {encoder.identity}" if encoder else None,
        clip_seconds=config.clip_seconds,
        samples_per_shard=config.samples_per_shard,
        batch_size=config.batch_size,
        padding=config.padding,
        device=describe_arithmetic(torch.device(find_device(config.device))),
        shards=dict(Counter(shard.split for shard in shards)),
    )
    path = out / "run.json"
    out.mkdir(parents=True, exist_ok=True)
    if not path.is_file() and create_whole(path, json.dumps(asdict(note), indent=1) + "\n"):
        return
    begun = asdict(read_json(path, RunNote, remedy=f"delete {out} to begin again"))
    for key, value in asdict(note).items():
        if key == "shards" or (key == "device" and begun[key] is None):
            continue
        if begun[key] != value:
            raise UserError(
                f"{out} was begun with {key} {begun[key]}, not {value}: "
                "choose another out=, or delete that folder to begin again"
            )


def manifest_identity(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def is_complete(folder: Path) -> bool:
    """Check whether a split has its index and all shards in it."""
    try:
        LatentDataset(folder)
    except UserError:
        return False
    return True
