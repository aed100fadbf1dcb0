"""Fetch packages without root by their ordinary clients, and read single files out of them.

Nothing is installed, and nothing is unpacked to disk: only the listed files are read out of an archive, so no name in
it can point elsewhere.
"""

import io
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from impact_pl.errors import UserError

HEADER = struct.Struct(">4sIIII")  # magic, version, offsets of tree, contents and names
COMPRESSED, FOLDER = 0b101, 0b10  # flags: by zlib or zstd


def rcc_files(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """(path, content) of every uncompressed file; sounds, which hardly shrink, are stored so.

    Raises:
        ValueError: no such archive, or a damaged one.
    """
    try:
        magic, version, tree, contents, names = HEADER.unpack_from(archive)
        if magic != b"qres":
            raise UserError(f"not a Qt resource archive: it begins with {magic!r}")
        yield from _walk(archive, 14 if version < 2 else 22, tree, contents, names)
    except (struct.error, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"damaged Qt resource archive ({error})") from error


def _walk(
    archive: bytes, node_size: int, tree: int, contents: int, names: int, node: int = 0, folder: str = ""
) -> Iterator[tuple[str, bytes]]:
    place = tree + node * node_size
    name_offset, flags, first, second = struct.unpack_from(">IHII", archive, place)
    path = folder + _name(archive, names + name_offset) if node else ""  # the root's name is empty
    if flags & FOLDER:
        for child in range(second, second + first):  # count, number of the first child
            yield from _walk(archive, node_size, tree, contents, names, child, f"{path}/" if path else "")
    elif not flags & COMPRESSED:
        begin = contents + second  # first: locale
        (length,) = struct.unpack_from(">I", archive, begin)
        yield path, archive[begin + 4 : begin + 4 + length]


def _name(archive: bytes, place: int) -> str:
    (length,) = struct.unpack_from(">H", archive, place)  # a hash of four bytes follows
    return archive[place + 6 : place + 6 + 2 * length].decode("utf-16-be")


SUFFIX = {"apt": ".deb", "npm": ".tgz", "pypi": ".whl"}


def fetch(client: str, name: str, version: str | None, cache: Path) -> Path:
    """The package's archive in ``cache``, downloaded unless it is there.

    Raises:
        ValueError: the client is missing, or it could not fetch the package.
    """
    archive = cache / f"{name}{'-' + version if version else ''}{SUFFIX[client]}"
    if archive.is_file():
        return archive
    incoming = cache / f"{name}.incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    try:
        {"apt": _fetch_apt, "npm": _fetch_npm, "pypi": _fetch_pypi}[client](name, version, incoming, cache)
        found = list(incoming.glob(f"*{SUFFIX[client]}"))
        if len(found) != 1:
            raise UserError(f"the client of {name} left {len(found)} files *{SUFFIX[client]} where one was expected")
        os.replace(found[0], archive)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return archive


def read_files(archive: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the wanted files that are there; ``a.zip!/b`` is the file b in the archive a (zip or rcc)."""
    outer = {path.partition("!/")[0] for path in wanted}
    for path, content in _members(archive, outer):
        if path in wanted:
            yield path, content
        inner = {name.partition("!/")[2] for name in wanted if name.startswith(f"{path}!/")}
        if inner:
            for name, nested in _nested_files(path, content, inner):
                yield f"{path}!/{name}", nested


def _nested_files(path: str, content: bytes, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    if path.endswith(".rcc"):
        yield from ((name, nested) for name, nested in rcc_files(content) if name in wanted)
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in wanted & set(archive.namelist()):
            yield name, archive.read(name)


def _members(archive: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                for name in sorted(wanted & set(wheel.namelist())):
                    yield name, wheel.read(name)
        elif archive.suffix == ".deb":
            command = [_find("dpkg-deb", "it reads .deb packages"), "--fsys-tarfile", str(archive)]
            with (
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
                tarfile.open(fileobj=process.stdout, mode="r|") as tar,
            ):
                yield from _tar_members(tar, wanted)
        else:
            with tarfile.open(archive, mode="r|gz") as tar:
                yield from _tar_members(tar, wanted)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{archive}: damaged archive ({error}); delete it and run the same command again") from error


def _tar_members(tar: tarfile.TarFile, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        name = member.name.removeprefix("./")
        if name in wanted and member.isfile():
            yield name, tar.extractfile(member).read()  # type: ignore[union-attr]


def _fetch_apt(name: str, version: str | None, incoming: Path, cache: Path) -> None:
    """``apt-get download``; where the machine's lists are absent or stale, with lists of our own in the cache."""
    apt = _find("apt-get", "it fetches Debian packages")
    _find("dpkg-deb", "it reads .deb packages")
    try:
        _run([apt, "download", name], incoming)
        return
    except ValueError:
        pass  # once more, with fresh lists of our own
    state = (cache / "apt").resolve()
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    options = [f"Dir::State::Lists={state}/lists", f"Dir::Cache={state}", f"Dir::Cache::Archives={state}/archives"]
    if os.geteuid() == 0:
        options.append("APT::Sandbox::User=root")  # its own user could not read the cache
    own_lists = [argument for option in options for argument in ("-o", option)]
    fresh = state / "fresh"  # the lists are fetched once a day for all packages
    if not fresh.is_file() or time.time() - fresh.stat().st_mtime > 86_400:
        _run([apt, *own_lists, "update"], incoming)
        fresh.touch()
    _run([apt, *own_lists, "download", name], incoming)


def _fetch_npm(name: str, version: str | None, incoming: Path, cache: Path) -> None:
    npm = _find("npm", "it comes with Node.js (Debian: the package npm)")
    _run([npm, "pack", "--silent", "--ignore-scripts", "--fetch-retries=1", f"{name}@{version}"], incoming)


def _fetch_pypi(name: str, version: str | None, incoming: Path, cache: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", "--only-binary=:all:", f"{name}=={version}"], incoming)


def _find(program: str, purpose: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise UserError(f"the program {program} is missing ({purpose})")
    return path


def _run(command: list[str], folder: Path) -> None:
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if process.returncode != 0:
        said = [line.strip() for line in (process.stderr + process.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.lower().startswith(("e:", "error", "npm error", "npm err"))]
        last = (errors or said or ["no message"])[-1]
        program = Path(command[0]).name
        raise UserError(f"`{program} ... {' '.join(command[-2:])}` failed ({process.returncode}): {last}")
