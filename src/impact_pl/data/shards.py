"""Latent shards: plain WebDataset tars of moments, text features and captions, with an index for random access.

A folder ``out/<split>/`` holds ``000000.tar``, ... and ``index.json``. The members of a sample share its key:
``<key>.moments.npy`` (2C, H, W) float16, ``<key>.<feature>.npy`` (L_real, d) float16 (real positions only; absent
without a caption) and ``<key>.json`` {id, caption, source, licence, split}. The bytes of a shard depend on its samples
alone (no times, no users), so equal inputs give equal checksums.

Dimension key: B batch, C latent channels, H latent frames, W latent width, L text positions, d text feature size.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

FORMAT = 1
INDEX_NAME = "index.json"
REMEDY = "delete that file and run the impact-precompute command that made it again"


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

    @classmethod
    def load(cls, folder: str | Path) -> "ShardIndex":
        """Read ``folder/index.json``.

        Raises:
            ValueError: no index there (precomputing has not finished), or not one that this version reads.
        """
        path = Path(folder) / INDEX_NAME
        if not path.is_file():
            raise ValueError(f"{path}: no index of latent shards; impact-precompute writes it when it has finished")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = values.pop("format")
            if version != FORMAT:
                raise ValueError(f"{path}: format {version}, but this version reads format {FORMAT}; precompute again")
            return cls(**values)
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not an index of latent shards ({error}); precompute again") from error

    def save(self, folder: str | Path) -> None:
        """Write ``folder/index.json``, complete or not at all."""
        path = Path(folder) / INDEX_NAME
        partial = path.with_name(f".{INDEX_NAME}.partial")
        values = {"format": self.format, **asdict(self)}
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)


class ShardWriter:
    """Writes one shard; as a context manager it leaves a complete, flushed file or none.

    Raises:
        ValueError: the disk is full (the partial file is removed first).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f".{self.path.name}.partial")

    def __enter__(self) -> "ShardWriter":
        self._file = open(self.partial, "wb")  # closed in __exit__
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)
        return self

    def add(self, key: str, moments: Tensor, text: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Append a sample: moments (2C, H, W), text {feature: (L_real, d)} without padding, meta for its json."""
        assert "." not in key, key  # webdataset: the key ends at the first dot
        assert "/" not in key, key
        try:
            self._add(f"{key}.moments.npy", _npy(moments))
            for name, feature in text.items():
                self._add(f"{key}.{name}.npy", _npy(feature))
            self._add(f"{key}.json", json.dumps(meta, ensure_ascii=False, sort_keys=True).encode())
        except OSError as error:
            self._explain_full_disk(error)
            raise

    def __exit__(self, kind, error, traceback) -> None:
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
        with contextlib.suppress(OSError):  # what the buffer still holds may not fit either; the file goes anyway
            self._file.close()
        self.partial.unlink(missing_ok=True)

    def _explain_full_disk(self, error: OSError) -> None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ValueError(
                f"{self.path}: the disk is full ({error.strerror}); the partial file was removed and finished shards "
                "are kept: free some space and run the same command again"
            ) from error


def describe_shard(path: str | Path) -> dict[str, Any]:
    """The index entry of a finished shard, from its bytes.

    Raises:
        ValueError: not a complete shard.
    """
    path = Path(path)
    offsets: dict[str, int] = {}
    complete = set()
    content = path.read_bytes()
    try:
        with tarfile.TarFile(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                key, _, part = member.name.partition(".")
                offsets.setdefault(key, member.offset)
                if part == "json":  # a sample's last member
                    complete.add(key)
    except tarfile.TarError as error:
        raise ValueError(f"{path}: truncated or damaged shard ({error}); {REMEDY}") from error
    if complete != set(offsets) or len(content) % tarfile.RECORDSIZE:
        raise ValueError(f"{path}: truncated shard of {len(content)} bytes; {REMEDY}")
    checksum = hashlib.sha256(content).hexdigest()
    return {
        "name": path.name,
        "num_samples": len(offsets),
        "bytes": len(content),
        "sha256": checksum,
        "offsets": offsets,
    }


class LatentDataset(Dataset):
    """Random access to the samples of ``folder``, in the order of its index; one seek a sample.

    ``dataset[i]`` is {"key", "moments" (2C, H, W), "text" {name: (L_i, d_i)}, "text_mask" (L,) bool, "caption"}, all
    float32; without a caption the features are zero, the mask is False and the caption is empty.

    Raises:
        ValueError: no index, a shard that is missing or truncated, or (on access) non-finite moments.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index = ShardIndex.load(folder)
        self.entries: list[tuple[Path, str, int]] = []
        for shard in self.index.shards:
            path = self.folder / shard["name"]
            size = path.stat().st_size if path.is_file() else None
            if size != shard["bytes"]:
                found = "missing" if size is None else f"truncated ({size} of {shard['bytes']} bytes)"
                raise ValueError(f"{path}: shard is {found}; {REMEDY}")
            self.entries += [(path, key, offset) for key, offset in shard["offsets"].items()]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> dict[str, Any]:
        path, key, offset = self.entries[i]
        members = _read_members(path, key, offset)
        try:
            meta = json.loads(members["json"])
            moments = _tensor(members["moments.npy"])  # (2C, H, W)
            caption = meta["caption"] or ""
            stored = {name: _tensor(members[f"{name}.npy"]) for name in self.index.text_features if caption}
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: sample {key} is incomplete or damaged ({error}); {REMEDY}") from error
        if not torch.isfinite(moments).all():
            raise ValueError(f"{path}: the moments of sample {key} ({meta['id']}) hold NaN or infinity; {REMEDY}")
        text, mask = {}, []
        for name, (length, size) in self.index.text_features.items():
            feature = stored.get(name, torch.zeros(0, size))  # (L_real, d_i)
            text[name] = torch.zeros(length, size)
            text[name][: len(feature)] = feature
            mask.append(torch.arange(length) < len(feature))
        text_mask = torch.cat(mask) if mask else torch.zeros(0, dtype=torch.bool)  # (L,)
        return {"key": key, "moments": moments, "text": text, "text_mask": text_mask, "caption": caption}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples -> {"keys", "captions", "moments" (B, 2C, H, W), "text": TextFeatures or None}."""
    text = None
    if samples[0]["text"]:
        from impact_pl.text import TextFeatures  # here, so that stage 1's workers do not import transformers

        features = {name: torch.stack([sample["text"][name] for sample in samples]) for name in samples[0]["text"]}
        text = TextFeatures(features, torch.stack([sample["text_mask"] for sample in samples]))
    return {
        "keys": [sample["key"] for sample in samples],
        "captions": [sample["caption"] for sample in samples],
        "moments": torch.stack([sample["moments"] for sample in samples]),
        "text": text,
    }


def _npy(values: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values.detach().cpu().to(torch.float16).contiguous().numpy(), allow_pickle=False)
    return buffer.getvalue()


def _tensor(content: bytes) -> Tensor:
    return torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False)).float()


def _read_members(path: Path, key: str, offset: int) -> dict[str, bytes]:
    """The members of one sample, by the part of their name behind the key."""
    members: dict[str, bytes] = {}
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            with tarfile.TarFile(fileobj=file) as tar:
                for member in tar:
                    owner, _, part = member.name.partition(".")
                    if owner != key:
                        break
                    members[part] = tar.extractfile(member).read()  # type: ignore[union-attr]
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path}: truncated or damaged at sample {key} ({error}); {REMEDY}") from error
    return members
