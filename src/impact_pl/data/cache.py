"""Per-node cache of remote shards: each shard is fetched once, completely, by whichever process needs it first.

Copies are named by their checksum: equal shards of different runs share one copy, and a recreated set never meets old
copies. Processes synchronise by file locks, which the system releases when their holder dies, so a killed process
blocks nobody. A forked DataLoader worker inherits the open file, and with it a lock held by another thread. The holder
therefore unlocks explicitly, because closing the file would not release the lock. After a killed holder the lock ends
with its last worker.
"""

import fcntl
import os
import queue
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from impact_pl.data.index import ShardEntry
from impact_pl.data.remote import download
from impact_pl.errors import UserError
from impact_pl.partial import partial_path, sweep_partials

ROOT = 0  # the user id that may own a link to a disk of this node
COPY_NAME = re.compile(r"[0-9a-f]{64}\.tar")


def default_folder() -> Path:
    """Return ``$TMPDIR/impact_pl-<user number>``. TMPDIR (default /tmp) should be node-local."""
    return Path(tempfile.gettempdir()) / f"impact_pl-{os.getuid()}"


class ShardCache:
    """Cache of shards in ``folder``.

    Args:
        folder: Folder on a disk of this node; created if missing.
        max_bytes: Maximum size of all finished copies; the least recently opened ones are evicted first. 0: no limit.
            Copies being fetched are not counted, so each process may exceed the limit by one shard.

    Raises:
        UserError: The folder cannot be written, or it or the link to it belongs to another user, who could change its
            content or redirect writes.
    """

    def __init__(self, folder: Path, max_bytes: int = 0):
        self.folder, self.max_bytes = folder, max_bytes
        with self._explained():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid != os.getuid() or folder.lstat().st_uid not in (os.getuid(), ROOT):
            raise UserError(f"data.cache={folder} belongs to another user: choose another folder")
        with self._locked("room"):  # or the first fetch would find out that it cannot be written
            pass
        sweep_partials(folder)
        self._wanted: queue.SimpleQueue[list[tuple[str, ShardEntry]]] | None = None

    def open(self, url: str, shard: ShardEntry) -> FileIO:
        """Open the copy of a shard (an entry of an index), fetching it from ``url`` if necessary.

        Raises:
            UserError: It cannot be fetched.
        """
        while True:
            path = self.fetch(url, shard)
            try:
                os.utime(path)
                return FileIO(path, opener=_open_no_link)
            except FileNotFoundError:  # another process has just made room
                continue

    def fetch(self, url: str, shard: ShardEntry) -> Path:
        """Return the path of a shard's copy, fetching it if necessary.

        Raises:
            UserError: It cannot be fetched.
        """
        path = self.folder / f"{shard['sha256']}.tar"
        if _has_size(path, shard["bytes"]):
            return path
        with self._explained(), self._locked(shard["sha256"][:2]):
            if not _has_size(path, shard["bytes"]):  # unless another process has just fetched it
                self._make_room(shard["bytes"])
                partial = partial_path(path)
                try:
                    download(url, partial, shard["bytes"], shard["sha256"])
                    with open(partial, "rb") as file:
                        os.fsync(file.fileno())  # or a crash of the node could leave a file of the right size and zeros
                    os.replace(partial, path)
                finally:
                    partial.unlink(missing_ok=True)
        return path

    def drop(self, shard: ShardEntry) -> Path:
        """Remove a damaged copy, and return its path."""
        path = self.folder / f"{shard['sha256']}.tar"
        path.unlink(missing_ok=True)
        return path

    def prefetch(self, wanted: list[tuple[str, ShardEntry]]) -> None:
        """Fetch (url, shard) in the background, replacing the requests of an earlier call.

        Errors end it silently, because reading that shard will raise them again.
        """
        if self._wanted is None:
            self._wanted = queue.SimpleQueue()
            threading.Thread(target=self._fetch_wanted, args=(self._wanted,), daemon=True).start()
        self._wanted.put(wanted)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_wanted": None}  # DataLoader workers have no such thread

    def _fetch_wanted(self, lists: "queue.SimpleQueue[list[tuple[str, ShardEntry]]]") -> None:
        while True:
            for url, shard in lists.get():
                if not lists.empty():
                    break
                try:
                    self.fetch(url, shard)
                except (ValueError, OSError):
                    break

    def _make_room(self, num_bytes: int) -> None:
        """Evict the least recently opened copies until ``num_bytes`` more fit."""
        if not self.max_bytes:
            return
        with self._locked("room"):
            copies = []
            for path in self.folder.iterdir():
                if not COPY_NAME.fullmatch(path.name):  # a file of the user
                    continue
                with suppress(FileNotFoundError):  # removed by hand
                    copies.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            total = sum(size for _, size, _ in copies)
            for _, size, path in sorted(copies):
                if total + num_bytes <= self.max_bytes:
                    break
                path.unlink(missing_ok=True)
                total -= size

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold a lock that one process (or thread) has at a time; the system releases it when its holder dies."""
        with self._explained():
            file = open(self.folder / f".{name}.lock", "w", opener=_open_no_link)  # noqa: SIM115  # closed below
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # a worker forked in the meantime has the file open too

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"data.cache={self.folder}: cannot be written ({error.strerror or error}); choose a folder on a disk "
                "of this node that you may write and that has room"
            ) from error


def _open_no_link(path: str, flags: int) -> int:
    """Open a file without following a symbolic link: an ``opener`` for :func:`open`."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _has_size(path: Path, num_bytes: int) -> bool:
    try:
        return path.lstat().st_size == num_bytes
    except FileNotFoundError:
        return False
