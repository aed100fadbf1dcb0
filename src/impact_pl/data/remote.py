"""Read files from URLs: those that ``fsspec`` opens, and the output of commands.

https:// and hf:// work without further packages, s3:// needs s3fs, gs:// needs gcsfs. ``pipe:COMMAND`` runs a shell
command in which ``%s`` stands for the file's name: ``pipe:aws s3 cp s3://bucket/latents/%s -``.
URLs come from the user's own ``data.path`` only; the names that an index adds to it are checked (``data.index``).
"""

import errno
import hashlib
import io
import logging
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from impact_pl.errors import UserError

logger = logging.getLogger(__name__)

URL = re.compile(r"(pipe|file):|[a-z0-9+.-]+://")
ATTEMPTS = 7
FIRST_WAIT_SECONDS = 0.5  # doubles with each attempt, half a minute in total
CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60  # between two bytes from an HTTP server; there is no limit per file

Result = TypeVar("Result")


def is_url(location: str) -> bool:
    """Check whether ``location`` is a URL rather than a path."""
    return URL.match(location) is not None


def join(location: str, name: str) -> str:
    """Join the URL of ``name`` (a file or a folder) below ``location``.

    Raises:
        UserError: A ``pipe:`` command has no ``%s`` for the name.
    """
    if not location.startswith("pipe:"):
        return f"{location.rstrip('/')}/{name}"
    if "%s" not in location:
        raise UserError(f"{location}: a pipe: needs %s where the file's name goes, as in 'pipe:cat /folder/%s'")
    is_folder = "." not in name
    return location.replace("%s", f"{name}/%s" if is_folder else name)


def read_url(url: str) -> bytes:
    """Read the file at a URL into memory.

    Raises:
        UserError: Several attempts to read it have failed.
    """

    def read() -> bytes:
        if url.startswith("pipe:"):
            output = io.BytesIO()
            _run(url, output)
            content = output.getvalue()
        else:
            system, path = _filesystem(url)
            content = system.cat_file(path)
        if not content:
            raise OSError("the response was empty")
        return content

    return _attempts(url, read)


def download(url: str, path: Path, num_bytes: int, sha256: str) -> None:
    """Download the file at a URL to ``path``.

    Raises:
        UserError: Several attempts to read it have failed, or gave other bytes.
    """

    def copy() -> None:
        if url.startswith("pipe:"):
            with open(path, "wb") as file:
                _run(url, file)
        else:
            system, there = _filesystem(url)
            system.get_file(there, str(path))
        if path.stat().st_size != num_bytes:
            raise OSError(f"received {path.stat().st_size} of {num_bytes} bytes")
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        if digest.hexdigest() != sha256:
            raise OSError("its checksum is not the index's")

    _attempts(url, copy)


def _filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path in it.

    Raises:
        UserError: The scheme is unknown, or its package is not installed.
    """
    import aiohttp  # imported here, so that local reading needs neither
    import fsspec

    options: dict[str, Any] = {}
    if url.startswith("http"):  # aiohttp would stop any transfer after five minutes, and overlook HTTPS_PROXY
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_SECONDS, sock_read=TIMEOUT_SECONDS)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
    try:
        return fsspec.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:  # no such scheme, or its package is missing
        raise UserError(f"{url}: {error}; or use 'pipe:COMMAND %s' with a command that prints a file") from error


def _run(url: str, output: BinaryIO) -> None:
    """Copy the output of a ``pipe:`` command."""
    with subprocess.Popen(url.removeprefix("pipe:"), shell=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        shutil.copyfileobj(process.stdout, output)
    if process.returncode:
        raise OSError(f"the command ended with exit code {process.returncode}")


def _attempts(url: str, read: Callable[[], Result]) -> Result:
    """Call ``read``, retrying with exponential backoff if the transfer fails."""
    from aiohttp import ClientError, ClientResponseError

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return read()
        except FileNotFoundError as error:
            raise UserError(f"{url}: no such file") from error
        except (OSError, ClientError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"{url}: no room for its copy ({error.strerror}); set data.cache and data.cache_gb"
                ) from error
            is_refused = isinstance(error, ClientResponseError) and error.status in (401, 403)
            if attempt == ATTEMPTS or is_refused or isinstance(error, PermissionError):
                tried = f"in {attempt} attempt{'s' if attempt > 1 else ''}"
                raise UserError(
                    f"{url}: could not be read {tried} ({error}); check data.path and its server"
                ) from error
            logger.warning("%s: attempt %d of %d failed (%s)", url, attempt, ATTEMPTS, error)
            time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
    raise AssertionError("unreachable")
