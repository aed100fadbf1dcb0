"""Files inside a Qt resource archive (.rcc): magic "qres", then a tree of nodes, file contents, and names in UTF-16.

All numbers are big-endian. Format: Qt's tools rcc (RCCResourceLibrary::output) and QResourceRoot.
"""

import struct
from collections.abc import Iterator

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
            raise ValueError(f"not a Qt resource archive: it begins with {magic!r}")
        yield from _walk(archive, 14 if version < 2 else 22, tree, contents, names)
    except (struct.error, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"damaged Qt resource archive ({error})") from error


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
