"""Checksums, and identities: short hashes that change whenever the weights of a codec, text encoder or network do."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

try:  # the same numbers as zlib's, computed ten times as fast
    from isal.isal_zlib import crc32
except ImportError:  # no wheel for this kind of processor
    from zlib import crc32

__all__ = ["crc32", "files_identity", "files_sha256", "tensors_identity"]
CHUNK_BYTES = 1 << 22


def files_sha256(files: Iterable[Path], salt: str = "") -> str:
    """Compute the SHA-256 of ``salt`` and the files' concatenated bytes, in hex digits."""
    digest = hashlib.sha256(salt.encode())
    for path in files:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def files_identity(salt: str, files: Iterable[Path]) -> str:
    """Hash ``salt`` and the bytes of files to 16 hex digits. File names have no influence."""
    return files_sha256(files, salt)[:16]


def tensors_identity(tensors: Mapping[str, Tensor]) -> str:
    """Hash the names and numbers of a state dict to 16 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
