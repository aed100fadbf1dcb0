"""Export a pipeline as a static page that makes and edits sounds in the browser, with onnxruntime-web."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

from impact_pl.errors import UserError
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.portable.export import check_exportable, export, new_folder

RUNTIME = "onnxruntime-web"
RUNTIME_VERSION = "1.30.0"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
HOW_TO_GET = f"get it with `npm pack {RUNTIME}@{RUNTIME_VERSION}`, and unpack it with tar xzf"


def export_page(pipeline: ImpactPipeline, folder: Path, runtime: Path, half: bool = False) -> dict[str, float]:
    """Write the page, the runtime and the graphs into ``folder``, which must not exist.

    Args:
        pipeline: On the CPU.
        folder: Appears complete or not at all.
        runtime: The unpacked npm package onnxruntime-web. Nothing is downloaded.
        half: Round the weights of the text encoder to float16.

    Returns:
        The largest error of each graph.

    Raises:
        UserError: The package is not in ``runtime``, or :func:`impact_pl.portable.export.export` refuses the model.
    """
    check_runtime(runtime)
    check_exportable(pipeline)
    with new_folder(folder) as partial:
        for file in (files("impact_pl.portable") / "web").iterdir():
            (partial / file.name).write_bytes(file.read_bytes())
        (partial / "ort").mkdir()
        for name in RUNTIME_FILES:
            shutil.copyfile(runtime / "dist" / name, partial / "ort" / name)
        return export(pipeline, partial / "model", half)


def check_runtime(runtime: Path) -> None:
    """Check that a folder is the npm package that the page was written for.

    Raises:
        UserError: It is not.
    """
    missing = [
        name for name in ("package.json", *(f"dist/{name}" for name in RUNTIME_FILES)) if not (runtime / name).is_file()
    ]
    if missing:
        raise UserError(f"{runtime} has no {missing[0]}, so it is not the npm package {RUNTIME}: {HOW_TO_GET}")
    package = json.loads((runtime / "package.json").read_text(encoding="utf-8"))
    if (package.get("name"), package.get("version")) != (RUNTIME, RUNTIME_VERSION):
        found = f"{package.get('name')} {package.get('version')}"
        raise UserError(f"{runtime} holds {found}, but the page needs {RUNTIME} {RUNTIME_VERSION}: {HOW_TO_GET}")
