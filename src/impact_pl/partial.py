"""Write files atomically, also when several processes write the same file."""

import contextlib
import glob
import os
import re
import socket
from pathlib import Path

from impact_pl.errors import UserError

PARTIAL = re.compile(r"\..+\.(?P<host>[^.]+)\.(?P<pid>\d+)\.partial")


def partial_path(path: Path) -> Path:
    """Name the temporary file for ``path``. No other process uses that name."""
    return path.with_name(f".{path.name}.{_host()}.{os.getpid()}.partial")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file durably, replacing an existing one. Text is encoded as UTF-8.

    Raises:
        UserError: ``path`` is a folder.
        OSError: The file cannot be written, or the disk is full; the error names ``path``.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, but a file would be written there: give another name")
    partial = partial_path(path)
    try:
        with open(partial, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # not the temporary file's name
    finally:
        with contextlib.suppress(OSError):  # the same folder or disk that caused the error above
            partial.unlink(missing_ok=True)


def create_whole(path: Path, content: str) -> bool:
    """Write a text file unless it exists. Return False if another process was faster."""
    partial = partial_path(path)
    partial.write_text(content, encoding="utf-8")
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    except OSError:  # file system without hard links: two processes starting at the same instant may both win
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return True


def sweep_partials(folder: Path, name: str | None = None) -> None:
    """Remove temporary files of this machine's killed processes: those for the file ``name``, or all in a folder.

    Those of other machines are kept: the machines' clocks may disagree about their age, and a live file would be lost.
    Machines are identified by host name and processes by number. Containers that share a folder and a host name, but do
    not see each other's processes, would remove each other's files. Give them different host names.
    """
    for path in folder.glob(f".{glob.escape(name) if name else ''}*.partial"):
        match = PARTIAL.fullmatch(path.name)
        if match and match["host"] == _host() and not _is_alive(int(match["pid"])):
            path.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        return True
    return True
