"""Files behind URLs: everything that ``webdataset.gopen`` opens.

http(s)://, ftps:// and sftp:// are read by curl, gs:// by gsutil, hf:// and ais:// by their clients, file: as it is,
and ``pipe:COMMAND`` by a shell, where ``%s`` stands for the file's name: ``pipe:aws s3 cp s3://bucket/latents/%s -``.
Only the user's own ``data.path`` gets here: the names that an index adds to it are checked (``data.index``).
"""

import errno
import hashlib
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, TypeVar

from impact_pl.errors import UserError

URL = re.compile(r"(pipe|file|https?|sftp|ftps|scp|gs|htgs|hf|ais|[a-z0-9+.-]+(?=://)):")
ATTEMPTS = 4
FIRST_WAIT_SECONDS = 0.5  # doubled with each further attempt
CHUNK_BYTES = 1 << 20
# Codes with which curl ends where the server is unknown, says no, or does not answer in time. It has then repeated what
# could go away (webdataset starts it with --retry 30), for up to a quarter of an hour.
CURL_GAVE_UP = {6: "unknown host", 22: "the server refused, as with 404 or 503", 28: "no answer in time"}

Result = TypeVar("Result")


def is_url(location: str) -> bool:
    """Whether ``location`` is a URL rather than a path."""
    return URL.match(location) is not None


def join(location: str, name: str) -> str:
    """The URL of ``name`` (a file or a folder) below ``location``.

    Raises:
        ValueError: a pipe: without a place for the name.
    """
    if not location.startswith("pipe:"):
        return f"{location.rstrip('/')}/{name}"
    if "%s" not in location:
        raise UserError(f"{location}: a pipe: needs %s where the file's name goes, as in 'pipe:cat /folder/%s'")
    is_folder = "." not in name
    return location.replace("%s", f"{name}/%s" if is_folder else name)


def read_url(url: str) -> bytes:
    """What a URL holds.

    Raises:
        ValueError: it could not be read, in several attempts.
    """

    def read() -> bytes:
        with _open(url) as stream:
            content = stream.read()
        if not content:
            raise OSError("nothing came")
        return content

    return _attempts(url, read)


def download(url: str, file: BinaryIO, num_bytes: int, sha256: str) -> None:
    """Write what a URL holds to ``file``.

    Raises:
        ValueError: it could not be read, or was not these bytes, in several attempts.
    """

    def copy() -> None:
        file.seek(0)
        file.truncate()
        digest, count = hashlib.sha256(), 0
        with _open(url) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                count += len(chunk)
        if count != num_bytes:
            raise OSError(f"{count} of {num_bytes} bytes came")
        if digest.hexdigest() != sha256:
            raise OSError("its checksum is not the index's")

    _attempts(url, copy)


class _GaveUp(OSError):
    """Reading failed, and another attempt would not help."""


@contextmanager
def _open(url: str) -> Iterator[BinaryIO]:
    from webdataset.gopen import Pipe, gopen  # here, so that local reading does not import it

    stream = gopen(url, "rb")
    if isinstance(stream, Pipe):
        stream.ignore_status.append(-signal.SIGPIPE)  # it was stopped in the middle, by an error that tells more
    try:
        with stream:
            yield stream
    except OSError as error:
        if not (isinstance(stream, Pipe) and error.errno is None):
            raise
        (command,), _ = stream.args  # the error shows all of it, with its options
        program = "the command" if isinstance(command, str) else command[0]
        said = f"{program} ended with exit code {stream.status}"
        if program == "curl" and stream.status in CURL_GAVE_UP:
            raise _GaveUp(f"{said}: {CURL_GAVE_UP[stream.status]}") from error
        raise OSError(said) from error


def _attempts(url: str, read: Callable[[], Result]) -> Result:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return read()
        except FileNotFoundError as error:  # of the file, or of the program that reads such URLs
            if error.filename in ("curl", "gsutil", "ais"):
                raise UserError(f"{url}: the program {error.filename!r} is needed to read it; install it") from error
            raise UserError(f"{url}: no such file") from error
        except ValueError as error:  # gopen knows no such scheme
            raise UserError(f"{url}: {error}; use 'pipe:COMMAND %s' with a command that prints a file") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"{url}: no room for its copy ({error.strerror}); set data.cache and data.cache_gb"
                ) from error
            if attempt == ATTEMPTS or isinstance(error, _GaveUp):
                tried = f"in {attempt} attempt{'s' if attempt > 1 else ''}"
                raise UserError(
                    f"{url}: could not be read {tried} ({error}); check data.path and its server"
                ) from error
            print(f"{url}: attempt {attempt} of {ATTEMPTS} failed ({error})", file=sys.stderr, flush=True)
            time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
    raise AssertionError("unreachable")
