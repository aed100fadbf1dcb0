"""`impact export`: write a checkpoint as a model folder (EMA weights), or a model as ONNX graphs or a static page."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from impact_pl.cli.options import Parser
from impact_pl.config import DecodingConfig
from impact_pl.errors import UserError, user_errors
from impact_pl.models.spec import FILES

EXAMPLES = """examples:
  impact export runs/mine/text model --half --decoding num_iterations=32 temperature=0.9
  impact export builtin graphs --onnx
  npm pack onnxruntime-web@1.30.0 && tar xzf onnxruntime-web-1.30.0.tgz
  impact export builtin page --web --onnxruntime-web package"""
HOW_TO_COMPUTE = ("engine", "precision")  # chosen by the user's machine, not stored in the model


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="impact export",
        description=(
            "Write the self-contained model folder (EMA weights) of a checkpoint; with --onnx or --web, write a model\n"
            "folder as ONNX graphs, or as a page that makes sounds in the browser."
        ),
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "source",
        type=Path,
        help="a checkpoint of impact train (file or folder), or its run directory; "
        "with --onnx and --web: a model folder, or builtin",
    )
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument(
        "--half",
        action="store_true",
        help="store weights in float16, or bfloat16 if a value is too large for it; they are loaded as float32 "
        "(with --onnx and --web: those of the text encoder, as the others are stored so where it is exact)",
    )
    parser.add_argument("--force", action="store_true", help="replace a model that is in the folder already")
    parser.add_argument(
        "--decoding",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override the decoding settings stored with the model: num_iterations=32 temperature=0.9",
    )
    parser.add_argument(
        "--hub",
        action="store_true",
        help="add a card with the hub's header (README.md), unless the source has one, and print how to upload",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--onnx", action="store_true", help="write graphs for `python -m impact_pl.portable`")
    form.add_argument("--web", action="store_true", help="write a static page that makes and edits sounds")
    parser.add_argument(
        "--onnxruntime-web", type=Path, metavar="FOLDER", help="with --web: the unpacked npm package onnxruntime-web"
    )
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Run ``impact export``."""
    arguments = build_parser().parse_args(argv)
    decoding = parse_decoding(arguments.decoding)
    if (arguments.onnxruntime_web is not None) != arguments.web:
        raise UserError(
            "--web and --onnxruntime-web belong together: `impact export --help` says how to get the package"
        )
    if arguments.onnx or arguments.web:
        if arguments.force or arguments.hub:
            raise UserError("--force and --hub are for model folders: leave them out with --onnx and --web")
        export_graphs(arguments.source, arguments.out, arguments.half, decoding, arguments.onnxruntime_web)
        return
    held = [name for name in FILES if (arguments.out / name).exists()]
    if held and not arguments.force:
        raise UserError(f"{arguments.out} has a {held[0]} already: choose another folder, or replace it with --force")
    from impact_pl.training.checkpoint import export

    export(arguments.source, arguments.out, arguments.half, decoding)
    if arguments.hub:
        from impact_pl.tuning.card import add_card

        add_card(arguments.source, arguments.out)
    size = (arguments.out / "model.safetensors").stat().st_size
    print(f"wrote {arguments.out}: {size / 1e6:.1f} MB")
    if arguments.hub:
        print(
            f"check {arguments.out}/README.md, then: huggingface-cli upload OWNER/NAME {arguments.out}\n"
            "anyone can then run: impact generate CAPTION --model hub:OWNER/NAME"
        )


def export_graphs(source: Path, out: Path, half: bool, decoding: dict[str, Any], runtime: Path | None) -> None:
    """Write a model as ONNX graphs, or as a page with ``runtime``, and print size and errors."""
    if out.exists():  # before anything is loaded
        raise UserError(f"{out} exists already: choose another folder, or remove it")
    from impact_pl.inference.pipeline import ImpactPipeline
    from impact_pl.portable.export import export
    from impact_pl.portable.page import export_page

    pipeline = ImpactPipeline.from_pretrained(source, "cpu")
    pipeline.model.spec.decoding = pipeline.model.spec.decoding | decoding
    errors = export(pipeline, out, half) if runtime is None else export_page(pipeline, out, runtime, half)
    for name, error in errors.items():
        print(f"{name:<14} largest error against PyTorch {error:.1e}")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"wrote {out}: {size / 1e6:.1f} MB")
    if runtime is None:
        print(f'python -m impact_pl.portable {out} "a dog barks" -o dog.wav')
    else:
        print(f"python -m http.server --bind 127.0.0.1 -d {out}   # or any other server of static files")


def parse_decoding(pairs: list[str]) -> dict[str, int | float | str]:
    """Parse KEY=VALUE pairs into fields of DecodingConfig.

    Raises:
        UserError: A field is unknown, or a value has another type.
    """
    defaults = {name: value for name, value in asdict(DecodingConfig()).items() if name not in HOW_TO_COMPUTE}
    decoding = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in defaults:
            raise UserError(f"--decoding {pair}: there is no {name!r}; choose one of {', '.join(defaults)}")
        kind = type(defaults[name])
        try:
            decoding[name] = kind(value)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise UserError(f"--decoding {pair}: write {name}= and {wanted}") from None
    return decoding
