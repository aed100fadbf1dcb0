"""Latent shards: plain WebDataset tars of moments, text features and captions, with an index for random access.

A folder ``out/<split>/`` contains ``000000.tar``, ... and ``index.json``. The members of a sample share its key:
``<key>.moments.npy`` (2C, H, W) float16, ``<key>.<feature>.npy`` (L_real, d) float16 (real positions only; absent
without a caption) and ``<key>.json`` {id, caption, source, licence, split}. The bytes of a shard depend on its samples
only (no times, no users), so equal inputs give equal checksums.

Dimension key: B batch, C latent channels, H latent frames, W latent width, L text positions, d text feature size.
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import tarfile
from collections import OrderedDict
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict, with_config
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import TypedDict

from impact_pl.data.cache import ShardCache
from impact_pl.data.index import ShardEntry, ShardIndex
from impact_pl.data.members import Damage, npy_bytes, npy_tensor, split_members, walk_members
from impact_pl.data.remote import is_url, join
from impact_pl.errors import UserError
from impact_pl.files import parse_json
from impact_pl.identity import crc32
from impact_pl.partial import partial_path

REMEDY = "delete that file and run the `impact precompute` command that made it again"
OPEN_SHARDS = 256  # files that a process keeps open, with
OPEN_COPIES = 8  # a smaller number for a cache of limited size


@with_config(ConfigDict(strict=True, extra="allow"))
class SampleMeta(TypedDict):
    """Fields of a sample's JSON member that reading needs."""

    id: str
    caption: str | None


class ShardWriter:
    """Write one shard. As a context manager it leaves a complete, flushed file or none.

    Raises:
        UserError: The disk is full (the partial file is removed first).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.partial = partial_path(self.path)

    def __enter__(self) -> "ShardWriter":
        try:
            self._file = open(self.partial, "wb")  # closed in __exit__
            self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)
        except BaseException:  # a signal's too, for which Python calls no __exit__
            self.partial.unlink(missing_ok=True)
            raise
        return self

    def add(self, key: str, moments: Tensor, text: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Append a sample: moments (2C, H, W), text {feature: (L_real, d)} without padding, and meta for its json."""
        assert "." not in key, key  # webdataset: the key ends at the first dot
        assert "/" not in key, key
        try:
            self._add(f"{key}.moments.npy", npy_bytes(moments))
            for name, feature in text.items():
                self._add(f"{key}.{name}.npy", npy_bytes(feature))
            self._add(f"{key}.json", json.dumps(meta, ensure_ascii=False, sort_keys=True).encode())
        except OSError as error:
            self._explain_full_disk(error)
            raise

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                self._tar.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                os.replace(self.partial, self.path)
        except OSError as problem:
            self._explain_full_disk(problem)
            raise
        finally:
            self._discard()

    def _add(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))

    def _discard(self) -> None:
        with contextlib.suppress(OSError):  # the buffered rest may not fit either, and the file is removed anyway
            self._file.close()
        self.partial.unlink(missing_ok=True)

    def _explain_full_disk(self, error: OSError) -> None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{self.path}: the disk is full ({error.strerror}); the partial file was removed and finished shards "
                "are kept: free some space and run the same command again"
            ) from error


def describe_shard(path: str | Path) -> ShardEntry:
    """Build the index entry of a finished shard from its bytes.

    Raises:
        UserError: The shard is incomplete.
    """
    path = Path(path)
    content = path.read_bytes()
    offsets: dict[str, int] = {}
    complete = set()
    try:
        for name, at, _, _ in walk_members(content):
            key, _, part = name.partition(".")
            offsets.setdefault(key, at)
            if part == "json":  # the last member of a sample
                complete.add(key)
    except Damage as error:
        raise UserError(f"{path}: truncated or damaged shard ({error}); {REMEDY}") from error
    if complete != set(offsets) or not content or len(content) % tarfile.RECORDSIZE:
        raise UserError(f"{path}: truncated shard of {len(content)} bytes; {REMEDY}")
    view = memoryview(content)
    return {
        "name": path.name,
        "num_samples": len(offsets),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "offsets": offsets,
        "crc32": [crc32(view[begin:end]) for begin, end in pairwise([*offsets.values(), len(content)])],
    }


class LatentDataset(Dataset):
    """Random access to the samples of ``folder`` in the order of its index, with one read per sample.

    ``dataset[i]`` is {"key", "moments" (2C, H, W), "text" {name: (L_i, d_i)}, "text_mask" (L,) bool, "caption"}, all
    float32. Without a caption the features are zero, the mask is False and the caption is empty.

    Args:
        folder: Folder of the shards and their index, or its URL (``data.remote``), which requires a cache.
        cache: Cache for copies of the shards; None reads the folder in place.
        with_text: Whether to read the stored text features.

    Raises:
        UserError: The index or a shard is missing, a shard is truncated, or (on access) damaged or has non-finite
            moments.
    """

    def __init__(self, folder: str | Path, cache: ShardCache | None = None, with_text: bool = True) -> None:
        assert cache is not None or not is_url(str(folder)), folder
        self.folder, self.cache = str(folder), cache
        self.index = ShardIndex.load(folder)
        self.sizes = np.array([shard["num_samples"] for shard in self.index.shards], dtype=np.int64)
        self.first = np.concatenate([[0], np.cumsum(self.sizes)])  # first sample of each shard
        bounds = [[*shard["offsets"].values(), shard["bytes"]] for shard in self.index.shards]
        self.bounds = [np.array(places, dtype=np.int64) for places in bounds]  # byte offsets of each shard's samples
        self.checksums = [_checksums(shard) for shard in self.index.shards]
        channels, frames, width = self.index.latents["shape"]
        self._shape = (2 * channels, frames, width)
        self._features = self.index.text_features if with_text else {}
        self._files: OrderedDict[int, FileIO] = OrderedDict()
        self.index.forget_offsets()
        for number in range(len(self.index.shards) if cache is None else 0):
            self._check_size(number, Path(self.path(number)))

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def path(self, number: int) -> str:
        """Return the path or URL of a shard."""
        return join(self.folder, self.index.shards[number]["name"])

    def locate(self, i: int) -> tuple[int, int, int]:
        """Find sample i's shard, and its begin and end in that shard."""
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        number = int(np.searchsorted(self.first, i, side="right")) - 1
        begin, end = self.bounds[number][i - self.first[number] :][:2].tolist()
        return number, begin, end

    def prefetch(self, shards: list[int]) -> None:
        """Fetch these shards into the cache in the background."""
        assert self.cache is not None
        self.cache.prefetch([(self.path(number), self.index.shards[number]) for number in shards])

    def __getitem__(self, i: int) -> dict[str, Any]:
        number, begin, end = self.locate(i)
        where = self.path(number)
        try:
            return self._read(number, i, begin, end)
        except Damage as error:
            if self.cache is None:
                raise UserError(f"{where}: sample {i} {error}; {REMEDY}") from error
            self._files.pop(number).close()
            copy = self.cache.drop(self.index.shards[number])
        try:  # a fetched copy has been compared with the checksum in the index
            return self._read(number, i, begin, end)
        except Damage as error:
            raise UserError(f"{where} and its copy {copy}, just fetched again: sample {i} {error}; {REMEDY}") from error

    def _read(self, number: int, i: int, begin: int, end: int) -> dict[str, Any]:
        """Read and check the sample at these bytes of a shard. Damage describes the problem."""
        file = self._open(number)
        try:
            content = os.pread(file.fileno(), end - begin, begin)
        except OSError as error:
            raise Damage(f"cannot be read ({error.strerror})") from error
        if len(content) < end - begin:
            raise Damage(f"is truncated at byte {begin + len(content)}")
        checksums = self.checksums[number]
        if checksums is not None and crc32(content) != checksums[i - self.first[number]]:
            raise Damage(f"is damaged (its bytes {begin} to {end} do not have the checksum of the index)")
        try:
            key, members = split_members(content)
            meta = parse_json(bytes(members["json"]), SampleMeta, "its JSON")
            moments = npy_tensor(members["moments.npy"], self._shape)  # (2C, H, W)
            caption = meta["caption"] or ""
            features = self._features.items() if caption else ()
            stored = {name: npy_tensor(members[f"{name}.npy"], (None, size)) for name, (_, size) in features}
        except (Damage, UserError, KeyError) as error:
            what = f"no member {error}" if isinstance(error, KeyError) else error
            raise Damage(f"is incomplete or damaged ({what})") from error
        if not math.isfinite(moments.sum().item()):  # a sum of 16-bit floats is finite unless one of them is not
            raise Damage(f"({key}, {meta['id']}) has moments with NaN or infinity")
        if any(len(stored[name]) > length for name, (length, _) in self._features.items() if name in stored):
            raise Damage(f"({key}, {meta['id']}) has more text positions than the index says")
        text, mask = {}, torch.zeros(sum(length for length, _ in self._features.values()), dtype=torch.bool)  # (L,)
        first = 0
        for name, (length, size) in self._features.items():
            text[name] = torch.zeros(length, size)
            if name in stored:
                count = len(stored[name])  # L_real
                text[name][:count] = stored[name]
                mask[first : first + count] = True
            first += length
        return {"key": key, "moments": moments, "text": text, "text_mask": mask, "caption": caption}

    def _open(self, number: int) -> FileIO:
        """Open a shard's file, and keep it open until many others have been read."""
        file = self._files.get(number)
        if file is None:
            if self.cache is None:
                self._check_size(number, Path(self.path(number)))
                file = FileIO(self.path(number))
            else:
                file = self.cache.open(self.path(number), self.index.shards[number])
            self._files[number] = file
            # An open copy takes disk space even after the cache has evicted it.
            if len(self._files) > (OPEN_COPIES if self.cache is not None and self.cache.max_bytes else OPEN_SHARDS):
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(number)
        return file

    def _check_size(self, number: int, path: Path) -> None:
        wanted = self.index.shards[number]["bytes"]
        size = path.stat().st_size if path.is_file() else None
        if size != wanted:
            found = "missing" if size is None else f"truncated ({size} of {wanted} bytes)"
            raise UserError(f"{path}: shard is {found}; {REMEDY}")


def _checksums(shard: ShardEntry) -> np.ndarray | None:
    return np.array(shard["crc32"], dtype=np.uint32) if "crc32" in shard else None


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate samples to {"keys", "captions", "moments" (B, 2C, H, W), "text": TextFeatures or None}."""
    text = None
    if samples[0]["text"]:
        from impact_pl.text_encoders.base import (
            TextFeatures,  # imported here, so that stage 1's workers do not import transformers
        )

        features = {name: torch.stack([sample["text"][name] for sample in samples]) for name in samples[0]["text"]}
        mask = torch.stack([sample["text_mask"] for sample in samples])
        text = TextFeatures(features, mask, longest=int(mask.sum(dim=1).max()))
    return {
        "keys": [sample["key"] for sample in samples],
        "captions": [sample["caption"] for sample in samples],
        "moments": torch.stack([sample["moments"] for sample in samples]),
        "text": text,
    }
