"""The bytes of a sample: the members of its part of a tar, and arrays in them.

``tarfile`` and ``numpy.load`` read any tar and any array, and take several times as long; these are our own: USTAR
headers with short names, and float16 in C order, never pickled.
"""

import io
import math
import tarfile
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

BLOCK = tarfile.BLOCKSIZE


def npy_bytes(values: Tensor) -> bytes:
    """An npy file that holds ``values`` as float16."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values.detach().cpu().to(torch.float16).contiguous().numpy(), allow_pickle=False)
    return buffer.getvalue()


def split_members(content: bytes) -> tuple[str, dict[str, memoryview]]:
    """Key and members of the sample that these bytes of a tar are, by the part of their names behind the key.

    Raises:
        ValueError: they are not one sample.
    """
    view, members, at, key = memoryview(content), {}, 0, ""
    while at + BLOCK <= len(content) and content[at]:  # zeros follow the last sample
        if content[at + 257 : at + 262] != b"ustar":
            raise ValueError(f"no tar header at byte {at} of the sample")
        name = content[at : at + 100].partition(b"\0")[0].decode()  # a name of 100 bytes has no zero behind it
        size = int(content[at + 124 : at + 135], 8)
        owner, _, part = name.partition(".")
        key = key or owner
        end = at + BLOCK + size
        if owner != key or end > len(content):
            raise ValueError(f"member {name} does not belong to sample {key}")
        members[part] = view[at + BLOCK : end]
        at = end + -size % BLOCK
    return key, members


def npy_tensor(content: memoryview) -> Tensor:
    """An npy file of float16 as a float32 tensor; ValueError where it is none."""
    begin = 10 + int.from_bytes(content[8:10], "little")
    shape = _npy_shape(bytes(content[:begin]))
    values = np.frombuffer(content, dtype="<f2", count=math.prod(shape), offset=begin)
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


@lru_cache(maxsize=256)
def _npy_shape(header: bytes) -> tuple[int, ...]:
    """The shape in an npy file's header; there are few different ones, and parsing takes longer than reading."""
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array of another npy version")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if is_fortran or dtype != np.dtype("<f2"):
        raise ValueError(f"an array of {dtype}, not of float16 in C order")
    return shape
