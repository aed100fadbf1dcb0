"""Read and write index.json, which describes the shards of one split. It may come from an untrusted source."""

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt, MaxLen
from pydantic import ConfigDict, StringConstraints, with_config
from typing_extensions import NotRequired, TypedDict

from impact_pl.data.remote import is_url, join, read_url
from impact_pl.errors import UserError
from impact_pl.files import STRICT, decode_text, parse_json, read_text
from impact_pl.partial import write_whole

FORMAT: Literal[1] = 1
INDEX_NAME = "index.json"
MAX_INDEX_BYTES = 4 << 30  # ten million samples take about 600 MB
MAX_MEAN_STDS = 1000  # a channel further from zero has lost its values in 16 bits
REMEDY = "precompute again"

Count = Annotated[int, Ge(1), Le(1 << 16)]
Place = Annotated[int, Ge(0), Lt(1 << 62)]
# Names cannot leave the folder.
ShardName = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]*\.tar\z")]
PartName = Annotated[str, StringConstraints(pattern=r"\A[^/]+\z")]


@with_config(ConfigDict(strict=True, extra="allow", allow_inf_nan=False))
class Producer(TypedDict):
    """The codec or text encoder that made the latents or features."""

    name: str
    identity: str
    sample_rate: NotRequired[Annotated[int, Ge(1)]]
    samples_per_latent: NotRequired[Annotated[int, Ge(1)]]
    features: NotRequired[dict[PartName, Annotated[list[Count], Len(2, 2)]]]  # of a text encoder: name -> [L_i, d_i]


class Latents(TypedDict):
    """Shape and statistics of the train split's raw latents."""

    shape: Annotated[list[Count], Len(3, 3)]  # C, H, W
    mean: Annotated[list[float], MaxLen(1 << 16)]  # (C,)
    std: Annotated[float, Gt(0)]


class ShardEntry(TypedDict):
    """Index entry of a shard. ``crc32`` holds a checksum per sample, over its bytes up to the next sample's offset."""

    name: ShardName
    num_samples: Place
    bytes: Place
    sha256: Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
    offsets: dict[str, Place]  # key -> start of the sample's first member
    crc32: NotRequired[list[Annotated[int, Ge(0), Lt(1 << 32)]]]  # absent in sets of earlier versions


@dataclass
class ShardIndex:
    """Schema of ``index.json``: contents and origin of one split's shards. ``latents`` are those of the train split."""

    __pydantic_config__ = STRICT

    codec: Producer
    text_encoder: Producer | None
    latents: Latents
    clip_seconds: Annotated[float, Gt(0)]
    shards: list[ShardEntry]
    format: Literal[1] = FORMAT

    @property
    def num_samples(self) -> int:
        return sum(shard["num_samples"] for shard in self.shards)

    @property
    def text_features(self) -> dict[str, tuple[int, int]]:
        """Map feature names to (L_i, d_i) in the order of their positions; empty without text."""
        features = self.text_encoder["features"] if self.text_encoder else {}
        return {name: (length, size) for name, (length, size) in features.items()}

    def forget_offsets(self) -> None:
        """Free the offsets, which take most of the memory, for an index that is kept next to a dataset."""
        for shard in self.shards:
            shard["offsets"] = {}
            shard.pop("crc32", None)

    @classmethod
    def load(cls, folder: str | Path) -> "ShardIndex":
        """Read ``folder/index.json``; ``folder`` may be a URL, see ``data.remote``.

        Raises:
            UserError: There is no index (precomputing has not finished), or none that this version reads.
        """
        if is_url(str(folder)):
            url = join(str(folder), INDEX_NAME)
            return cls.parse(read_url(url), url)
        path = Path(folder) / INDEX_NAME
        if not path.is_file():
            raise UserError(f"{path}: no index of latent shards; `impact precompute` writes it when it has finished")
        return cls.parse(read_text(path, MAX_INDEX_BYTES), str(path))

    @classmethod
    def parse(cls, content: str | bytes, where: str) -> "ShardIndex":
        """Parse the content of an index. Messages of a UserError begin with ``where``."""
        text = decode_text(content, where) if isinstance(content, bytes) else content
        index = parse_json(text, cls, where, REMEDY)
        _check(index, where)
        return index

    def save(self, folder: str | Path) -> None:
        """Write ``folder/index.json`` atomically."""
        values = {"format": self.format, **asdict(self)}
        write_whole(Path(folder) / INDEX_NAME, json.dumps(values, indent=1) + "\n")


def _check(index: ShardIndex, where: str) -> None:
    """Check the consistency of fields with each other."""
    channels, mean, std = index.latents["shape"][0], index.latents["mean"], index.latents["std"]
    if len(mean) != channels:
        raise UserError(f"{where}: key 'latents.mean': {len(mean)} means for {channels} channels; {REMEDY}")
    furthest = max(map(abs, mean))
    if furthest > MAX_MEAN_STDS * std:
        raise UserError(
            f"{where}: key 'latents.mean': a channel's mean of {furthest:g} is more than {MAX_MEAN_STDS} times the "
            f"standard deviation {std:g}; {REMEDY}"
        )
    if index.text_encoder is not None and "features" not in index.text_encoder:
        raise UserError(f"{where}: key 'text_encoder.features' is missing; {REMEDY}")
    for shard in index.shards:
        offsets, count = shard["offsets"], shard["num_samples"]
        places = [-1, *offsets.values(), shard["bytes"]]
        if len(offsets) != count or any(b <= a for a, b in pairwise(places)):
            raise UserError(
                f"{where}: {shard['name']}: offsets that do not fit {count} samples in {shard['bytes']} bytes; {REMEDY}"
            )
        if len(shard.get("crc32", offsets)) != count:
            raise UserError(f"{where}: {shard['name']}: {len(shard['crc32'])} checksums for {count} samples; {REMEDY}")
