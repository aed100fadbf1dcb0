"""The one place that cures the torchaudio-on-CPU trap.

The registry's torchaudio wheels for Linux are CUDA builds. Beside a CPU build of torch their shared libraries cannot be
loaded (``libc10_cuda.so`` is missing), which breaks ``import torchaudio`` and with it transformers and diffusers. The
Python part of torchaudio works without those libraries: its own loader treats *missing* files as fine.

``impact_pl/__init__.py`` calls this before anything else is imported, so commands, tests, spawned data-loader workers
and launched ranks are all covered.
"""

import sys
from pathlib import Path


def make_torchaudio_importable() -> None:
    """Import torchaudio; where its compiled libraries do not fit this torch, import it without them."""
    try:
        import torchaudio  # noqa: F401
    except OSError:
        _import_without_libraries()


def _import_without_libraries() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    original_glob = Path.glob

    def glob(self: Path, *args, **kwargs):
        is_library_folder = self.name == "lib" and self.parent.name == "torchaudio"
        return iter(()) if is_library_folder else original_glob(self, *args, **kwargs)

    Path.glob = glob  # type: ignore[method-assign]  # torchaudio finds its libraries by Path.glob
    try:
        import torchaudio  # noqa: F401
    finally:
        Path.glob = original_glob  # type: ignore[method-assign]
