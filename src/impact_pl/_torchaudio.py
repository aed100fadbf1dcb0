"""Import torchaudio, working around its CUDA builds next to a CPU build of torch.

The torchaudio wheels on PyPI for Linux are CUDA builds. With a CPU build of torch their shared libraries cannot be
loaded (``libc10_cuda.so`` is missing), which breaks ``import torchaudio`` and with it parts of transformers and
diffusers. The Python part of torchaudio works without those libraries: its own loader accepts *missing* files.

Modules that need torchaudio use ``from impact_pl._torchaudio import torchaudio``. Modules that need transformers or
diffusers import this module first, or one that does (``checkpoint_io``).
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def _import_torchaudio() -> None:
    """Import torchaudio, without its compiled libraries if they do not fit this torch."""
    try:
        importlib.import_module("torchaudio")
    except OSError:
        _import_without_libraries()


def _import_without_libraries() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    original_glob = Path.glob

    def glob(self: Path, *args: Any, **kwargs: Any) -> Iterator[Path]:
        is_library_folder = self.name == "lib" and self.parent.name == "torchaudio"
        return iter(()) if is_library_folder else original_glob(self, *args, **kwargs)

    Path.glob = glob  # type: ignore[assignment, method-assign]  # torchaudio finds its libraries by Path.glob
    try:
        importlib.import_module("torchaudio")
    finally:
        Path.glob = original_glob  # type: ignore[method-assign]


_import_torchaudio()

import torchaudio  # noqa: E402
import torchaudio.functional  # noqa: E402
import torchaudio.transforms  # noqa: E402

__all__ = ["torchaudio"]
