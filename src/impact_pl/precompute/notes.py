"""Read and write the notes of a precomputing run: ``run.json``, and a ``.done.json`` next to every finished shard."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from impact_pl.data.index import ShardEntry
from impact_pl.files import STRICT, read_json
from impact_pl.partial import write_whole
from impact_pl.precompute.segments import Reject
from impact_pl.precompute.statistics import LatentSums

REMEDY = "delete that file: the command that made it then makes its shard again"


@dataclass
class RunNote:
    """Everything that the bytes of the shards depend on; ``shards`` follows from the manifest."""

    __pydantic_config__ = STRICT

    manifest: str
    codec: str
    text_encoder: str | None
    clip_seconds: float
    samples_per_shard: int
    batch_size: int
    padding: str = "silence"  # earlier versions knew no other and did not note it
    device: str | None = None  # its kind and arithmetic; None: noted by an earlier version
    shards: dict[str, int] | None = None  # how many each split has, so that `verify` misses a split that is gone


@dataclass
class ShardNote:
    """A finished shard: its index entry, sums for the statistics, and what was left out."""

    __pydantic_config__ = STRICT

    shard: ShardEntry
    sums: list[LatentSums]
    rejected: list[Reject]

    def save(self, shard: Path) -> None:
        """Mark ``shard`` as finished."""
        write_whole(done_path(shard), json.dumps(asdict(self), ensure_ascii=False) + "\n")


def done_path(shard: Path) -> Path:
    """Return the path of the note that marks a shard as finished."""
    return shard.with_suffix(".done.json")


def read_shard_note(shard: Path) -> ShardNote:
    """Read the note of a finished shard.

    Raises:
        UserError: It is damaged.
    """
    return read_json(done_path(shard), ShardNote, remedy=REMEDY)


def read_done(shard: Path) -> ShardNote | None:
    """Read the note of a shard; None if the shard is missing, unfinished or truncated."""
    if not (done_path(shard).is_file() and shard.is_file()):
        return None
    note = read_shard_note(shard)
    return note if shard.stat().st_size == note.shard["bytes"] else None
