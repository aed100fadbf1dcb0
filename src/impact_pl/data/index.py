"""index.json: what the shards of one split hold, and what made them; read with suspicion, for it may come from afar."""

import json
import math
import re
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from impact_pl.data.remote import is_url, join, read_url
from impact_pl.errors import UserError
from impact_pl.partial import write_whole

FORMAT = 1
INDEX_NAME = "index.json"
SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.tar")  # no way out of the folder
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass
class ShardIndex:
    """``index.json``: what the shards of one split hold, and what made them.

    ``latents``: {"shape": [C, H, W], "mean": [C numbers], "std": one number}, of the train split's raw latents;
    ``shards``: [{"name", "num_samples", "bytes", "sha256", "offsets": {key: of its first member}}].
    """

    codec: dict[str, Any]
    text_encoder: dict[str, Any] | None
    latents: dict[str, Any]
    clip_seconds: float
    shards: list[dict[str, Any]]
    format: int = FORMAT

    @property
    def num_samples(self) -> int:
        return sum(shard["num_samples"] for shard in self.shards)

    @property
    def text_features(self) -> dict[str, tuple[int, int]]:
        """name -> (L_i, d_i), in the order in which the positions stand; empty without text."""
        features = self.text_encoder["features"] if self.text_encoder else {}
        return {name: (length, size) for name, (length, size) in features.items()}

    def forget_offsets(self) -> None:
        """Free what takes most of the memory; for an index that is kept beside a dataset."""
        for shard in self.shards:
            shard["offsets"] = {}

    @classmethod
    def load(cls, folder: str | Path) -> "ShardIndex":
        """Read ``folder/index.json``; ``folder`` may be a URL, see ``data.remote``.

        Raises:
            ValueError: no index there (precomputing has not finished), or not one that this version reads.
        """
        if is_url(str(folder)):
            url = join(str(folder), INDEX_NAME)
            return cls.parse(read_url(url), url)
        path = Path(folder) / INDEX_NAME
        if not path.is_file():
            raise UserError(f"{path}: no index of latent shards; impact precompute writes it when it has finished")
        return cls.parse(path.read_bytes(), str(path))

    @classmethod
    def parse(cls, content: bytes, where: str) -> "ShardIndex":
        """The index that ``content`` holds; ValueError, naming ``where``, if it is none."""
        try:
            values = json.loads(content)
            version = values.pop("format")
            if version != FORMAT:
                raise UserError(f"{where}: format {version}, but this version reads format {FORMAT}; precompute again")
            index = cls(**values)
            _check(index)
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError, _BadIndex) as error:
            raise UserError(f"{where}: not an index of latent shards ({error}); precompute again") from error
        return index

    def save(self, folder: str | Path) -> None:
        """Write ``folder/index.json``, complete or not at all."""
        values = {"format": self.format, **asdict(self)}
        write_whole(Path(folder) / INDEX_NAME, json.dumps(values, indent=1) + "\n")


class _BadIndex(Exception):
    """What is wrong with an index, for the message of the ValueError that follows."""


def _check(index: ShardIndex) -> None:
    """The parts that reading relies on."""
    makers = {"codec": index.codec} | ({"text_encoder": index.text_encoder} if index.text_encoder is not None else {})
    for kind, made_by in makers.items():
        for key in ("name", "identity"):
            if not isinstance(made_by.get(key), str):
                raise _BadIndex(f"{kind} without {key}")
    for name, size in index.text_features.items():
        if "/" in name or not all(isinstance(number, int) and number > 0 for number in size):
            raise _BadIndex(f"text feature {name!r} of size {size}")
    if not (isinstance(index.clip_seconds, int | float) and math.isfinite(index.clip_seconds)):
        raise _BadIndex(f"clip_seconds {index.clip_seconds!r}")
    for shard in index.shards:
        name, size, offsets = shard["name"], shard["bytes"], shard["offsets"]
        if not SHARD_NAME.fullmatch(name):
            raise _BadIndex(f"{name!r} is no name of a shard")
        if not SHA256.fullmatch(shard["sha256"]):
            raise _BadIndex(f"{name}: sha256 {shard['sha256']!r}")
        places = [-1, *offsets.values(), size]
        if len(offsets) != shard["num_samples"] or any(b <= a for a, b in pairwise(places)):
            raise _BadIndex(f"{name}: offsets that do not fit {shard['num_samples']} samples in {size} bytes")
