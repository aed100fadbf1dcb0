"""Parse the bytes of a sample: tar members and npy arrays, as :class:`data.shards.ShardWriter` writes them.

Nothing is trusted: tarfile and numpy accept more than is written here, and fail in many ways where a bit is flipped.
"""

import io
import math
import re
import tarfile
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

BLOCK = tarfile.BLOCKSIZE
OCTAL = re.compile(rb"[0-7]{11}")  # of a size; Python's int() also accepts signs and spaces
# The header as numpy writes it. numpy's own parser evaluates Python, which may raise anything if a bit is flipped.
NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f2', 'fortran_order': False, 'shape': \(((?:\d{1,9}, ?)*(?:\d{1,9})?)\), \} *\n",
    re.DOTALL,
)


class Damage(Exception):
    """Describes the damage of a sample's bytes, for the message of a UserError."""


def npy_bytes(values: Tensor) -> bytes:
    """Serialise ``values`` as float16 in the npy format."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values.detach().cpu().to(torch.float16).contiguous().numpy(), allow_pickle=False)
    return buffer.getvalue()


def walk_members(content: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Iterate over the members of a tar: (name, start of header, start of content, end of content).

    Raises:
        Damage: Not a tar of plain files with short names, as :class:`ShardWriter` writes.
    """
    at = 0
    while at + BLOCK <= len(content) and content[at]:  # zeros follow the last member
        name, size = content[at : at + 100].partition(b"\0")[0], content[at + 124 : at + 135]
        if content[at + 257 : at + 262] != b"ustar" or not OCTAL.fullmatch(size) or not name.isascii():
            raise Damage(f"no tar header at byte {at}")
        begin, end = at + BLOCK, at + BLOCK + int(size, 8)
        if end > len(content):
            raise Damage(f"member {name.decode()} of {int(size, 8)} bytes is cut off")
        yield name.decode(), at, begin, end
        at = end + -end % BLOCK


def split_members(content: bytes) -> tuple[str, dict[str, memoryview]]:
    """Split the bytes of one sample into its key and its members by suffix (the part of their names after the key)."""
    view, members, key = memoryview(content), {}, ""
    for name, _, begin, end in walk_members(content):
        owner, _, part = name.partition(".")
        key = key or owner
        if owner != key:
            raise Damage(f"member {name} does not belong to sample {key}")
        members[part] = view[begin:end]
    return key, members


def npy_tensor(content: memoryview, shape: tuple[int | None, ...]) -> Tensor:
    """Parse a float16 npy file into a float32 tensor of ``shape``, where None matches any size."""
    header = NPY_HEADER.match(content)
    if header is None:
        raise Damage("an array is no npy file of float16 in C order")
    found = tuple(int(size) for size in header[1].split(b",") if size.strip())
    num_bytes = math.prod(found) * 2
    if len(found) != len(shape) or any(size not in (None, real) for size, real in zip(shape, found, strict=True)):
        raise Damage(f"an array has shape {found}, expected {shape}")
    if header.end() + num_bytes != len(content):
        raise Damage(f"an array of shape {found} has {len(content) - header.end()} bytes, not {num_bytes}")
    values = np.frombuffer(content, dtype="<f2", offset=header.end()).reshape(found)
    return torch.from_numpy(values.astype(np.float32))
