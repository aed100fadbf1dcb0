"""`impact export`: write the self-contained model folder (EMA weights) of a checkpoint."""

import argparse
from dataclasses import asdict
from pathlib import Path

from impact_pl.cli.options import Parser
from impact_pl.config import DecodingConfig
from impact_pl.errors import UserError, user_errors
from impact_pl.models.spec import FILES

HOW_TO_COMPUTE = ("engine", "precision")  # chosen by the user's machine, not stored in the model


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="impact export",
        description="Write the self-contained model folder (EMA weights) of a checkpoint.",
        epilog="example:\n  impact export runs/mine/text model --half --decoding num_iterations=32 temperature=0.9",
    )
    parser.add_argument("source", type=Path, help="a checkpoint of impact train (file or folder), or its run directory")
    parser.add_argument("out", type=Path, help="the folder to write: config.json and model.safetensors")
    parser.add_argument(
        "--half",
        action="store_true",
        help="store weights in float16, or bfloat16 if a value is too large for it; they are loaded as float32",
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
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Run ``impact export``."""
    arguments = build_parser().parse_args(argv)
    decoding = parse_decoding(arguments.decoding)
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
