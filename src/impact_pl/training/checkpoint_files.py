"""Checkpoints on disk: one file, or a folder with one shard per process. Written atomically, never unpickled.

A folder holds ``meta.pt``, the checkpoint with empty tensors (device ``meta``) in place of sharded ones, and one file
per process, ``00000-of-00002.pt``, with that process's rows of each tensor: ``{"state_dict/model.head...": rows,
...}``. Concatenating the rows in file order gives the tensor, so a checkpoint can be read completely, or in the parts
of a different number of processes.

Each file is a zip archive with a CRC-32 of every record. torch writes the checksums but does not check them; here they
are checked when a file is opened. The previous checkpoint is kept as ``last.ckpt.old`` and replaces a damaged one.
"""

import errno
import functools
import logging
import lzma
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from impact_pl.checkpoint_io import MALFORMED, raise_if_memory
from impact_pl.errors import UserError, first_line

logger = logging.getLogger(__name__)

# What zipfile raises, besides some OSErrors, for damaged archive headers.
DAMAGED_ARCHIVE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, RuntimeError)
META = "meta.pt"
MAX_SHARDS = 1 << 16
Place = Callable[[str, Tensor], Any]


def map_tensors(tree: Any, place: Place, name: str = "") -> Any:
    """Map ``place(name, tensor)`` over the tensors in a tree of dicts, lists and tuples; names are "a/b/0/c"."""
    if isinstance(tree, Tensor):
        return place(name, tree)
    prefix = f"{name}/" if name else ""
    if isinstance(tree, dict):
        return {key: map_tensors(value, place, f"{prefix}{key}") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(value, place, f"{prefix}{i}") for i, value in enumerate(tree))
    return tree


def shard_name(rank: int, world_size: int) -> str:
    return f"{rank:05d}-of-{world_size:05d}.pt"


def shard_rows(num_rows: int, rank: int, world_size: int) -> tuple[int, int]:
    """Compute the first row, and the one after the last, that ``Shard(0)`` assigns to a rank (as torch.chunk)."""
    size = -(-num_rows // world_size)
    return min(rank * size, num_rows), min((rank + 1) * size, num_rows)


def write_file(content: Any, path: Path) -> None:
    """Run torch.save and wait until the file is on disk.

    Raises:
        OSError: Includes the file's name, which a write error (full disk) lacks, and which torch may hide.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        raise OSError(cause.errno, f"{cause.strerror} while the checkpoint was written", str(path)) from error


def write_shards(checkpoint: dict[str, Any], folder: Path, rank: int, world_size: int) -> None:
    """Write one process's part of a folder: its rows of every DTensor. Rank zero writes everything else as well."""
    shards: dict[str, Tensor] = {}

    def split(name: str, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        assert tuple(tensor.placements) == (Shard(0),), f"{name} is laid out as {tensor.placements}"
        rows = tensor.to_local().detach()
        is_padded = rows.untyped_storage().nbytes() > rows.nbytes  # torch.save would write the complete storage
        shards[name] = rows.clone() if is_padded else rows
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    meta = map_tensors(checkpoint, split)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(shards, folder / shard_name(rank, world_size))
    if rank == 0:
        write_file({"num_shards": world_size, "checkpoint": meta}, folder / META)


def discard(path: Path) -> None:
    """Delete a file or folder if it exists, under another name first, so that ``path`` is never half a folder."""
    if path.is_dir():
        rubbish = path.with_name(path.name + ".rubbish")
        shutil.rmtree(rubbish, ignore_errors=True)
        os.replace(path, rubbish)
        shutil.rmtree(rubbish)
    else:
        path.unlink(missing_ok=True)


def put_in_place(partial: Path, path: Path) -> None:
    """Rename ``partial`` to ``path`` and keep the previous one; after any interruption :func:`find` finds one."""
    _sync_folder(partial.parent)
    if partial.is_dir():
        _sync_folder(partial)
    if path.exists():
        discard(_old(path))
        os.replace(path, _old(path))
    os.replace(partial, path)
    _sync_folder(path.parent)


def find(path: Path) -> Path | None:
    """Find the last checkpoint completed as ``path``, or the previous one if that is damaged.

    If both are damaged, the last one is returned, so that :class:`StoredCheckpoint` reports it.
    """
    places = [place for place in (path, _old(path)) if place.exists()]
    for place in places:
        try:
            StoredCheckpoint(place).check()
        except UserError as error:
            if place != places[-1]:
                damage = str(error).removesuffix(": delete it")
                logger.warning("%s; using the previous checkpoint instead, and keeping it as *.damaged", damage)
        else:
            return place
    return places[0] if places else None


def set_aside(path: Path, found: Path | None) -> None:
    """Rename a damaged ``path`` if :func:`find` returned the previous one, to protect that from the next save."""
    if found not in (None, path) and path.exists():
        damaged = path.with_name(path.name + ".damaged")
        discard(damaged)
        os.replace(path, damaged)


def _old(path: Path) -> Path:
    return path.with_name(path.name + ".old")


def _sync_folder(folder: Path) -> None:
    """Sync a folder, without which its names would not survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class StoredCheckpoint:
    """A checkpoint on disk in either form, whose large tensors are read lazily.

    ``content`` is the checkpoint. Its tensors are memory-mapped (file) or on the device ``meta`` (folder). Read them
    with :meth:`rows` or :meth:`whole`.

    Raises:
        UserError: It is missing, damaged or incomplete.
    """

    def __init__(self, path: Path):
        self.path = path
        self._shards: dict[int, dict[str, Tensor]] = {}
        if path.is_file():
            self.num_shards, self.content = 1, _load(path)
        elif path.is_dir():
            _check_complete(path, [META])
            meta = _load(path / META)
            if not isinstance(meta, dict) or meta.keys() != {"num_shards", "checkpoint"}:
                raise UserError(f"{path} is not a checkpoint of impact train: {META} holds something else")
            self.num_shards, self.content = meta["num_shards"], meta["checkpoint"]
            if type(self.num_shards) is not int or not 1 <= self.num_shards <= MAX_SHARDS:
                raise UserError(f"{path / META}: num_shards={self.num_shards!r}: from 1 to {MAX_SHARDS}; delete {path}")
            _check_complete(path, [shard_name(rank, self.num_shards) for rank in range(self.num_shards)])
        else:
            raise UserError(f"no checkpoint at {path}")

    @property
    def num_bytes(self) -> int:
        """Bytes of all its files."""
        files = [self.path] if self.path.is_file() else self.path.iterdir()
        return sum(file.stat().st_size for file in files)

    def check(self) -> None:
        """Check the files that have not been opened yet.

        Raises:
            UserError: One of them is damaged.
        """
        if self.path.is_dir():
            for rank in range(self.num_shards):
                _check_sums(self.path / shard_name(rank, self.num_shards))

    def whole(self, name: str, tensor: Tensor) -> Tensor:
        """Read the values of the tensor ``name`` of ``content``."""
        return self.rows(name, tensor, 0, len(tensor)) if tensor.is_meta else tensor

    def rows(self, name: str, tensor: Tensor, start: int, stop: int) -> Tensor:
        """Read rows ``start`` to ``stop`` of the tensor ``name`` of ``content``."""
        if not tensor.is_meta:
            return tensor[start:stop]
        parts = []
        for shard in range(self.num_shards):
            first, end = shard_rows(len(tensor), shard, self.num_shards)
            if max(first, start) < min(end, stop) or (start == stop and shard == 0):
                parts.append(self._shard(shard, name, end - first)[max(start - first, 0) : stop - first])
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def read(self) -> dict[str, Any]:
        """Read the complete checkpoint."""
        return map_tensors(self.content, self.whole)

    def _shard(self, shard: int, name: str, num_rows: int) -> Tensor:
        file = self.path / shard_name(shard, self.num_shards)
        if shard not in self._shards:
            self._shards[shard] = _load(file)
        rows = self._shards[shard].get(name)
        if rows is None or len(rows) != num_rows:
            found = "no such tensor" if rows is None else f"{len(rows)} rows"
            raise UserError(f"{file} is damaged, {name} has {num_rows} rows there, found {found}: delete {self.path}")
        return rows


def _check_complete(folder: Path, names: list[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is an incomplete checkpoint, without {', '.join(missing)}: delete it")


def _load(path: Path) -> Any:
    _check_sums(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return map_tensors(content, lambda name, tensor: tensor)  # RecursionError, if it is nested too deeply
    except MALFORMED as error:
        raise_if_memory(error)
        raise UserError(
            f"{path} is not a readable checkpoint ({first_line(error)}): choose another, or delete it"
        ) from error


def _check_sums(path: Path) -> None:
    """Compare a file with its own checksums.

    Raises:
        UserError: A byte of a record has changed.
    """
    stat = path.stat()
    damage = _damage(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if damage:
        raise UserError(f"{path} is not a readable checkpoint ({damage}): choose another, or delete it")


@functools.lru_cache(maxsize=4096)
def _damage(path: Path, *version: int) -> str:
    """Describe the damage of a file, cached per ``version`` because a start opens each file repeatedly."""
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except DAMAGED_ARCHIVE as error:
        return str(error) or "cut short"
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # those come from damaged positions and streams
            raise
        return str(error)
    return f"the checksum of its record {record} is wrong" if record else ""


class CheckpointFiles(CheckpointIO):
    """Checkpoint IO of the strategies that save one file. Reads either form."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_file(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        # Clone, because the optimizer would keep memory-mapped tensors, and the file is replaced during training.
        stored = StoredCheckpoint(Path(path))
        return map_tensors(stored.content, lambda name, tensor: stored.whole(name, tensor).clone())

    def remove_checkpoint(self, path: Any) -> None:
        discard(Path(path))
