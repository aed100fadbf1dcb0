"""Identities: short hashes that change whenever the weights behind a codec, text encoder or network do."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

CHUNK_BYTES = 1 << 22


def files_sha256(files: Iterable[Path], salt: str = "") -> str:
    """SHA-256 of ``salt`` and the files' bytes, one after the other, in hex digits."""
    digest = hashlib.sha256(salt.encode())
    for path in files:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def files_identity(salt: str, files: Iterable[Path]) -> str:
    """16 hex digits that change with ``salt`` or with any byte of the files; their names do not matter."""
    return files_sha256(files, salt)[:16]


def tensors_identity(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits that change with any number or name of a state dict."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
