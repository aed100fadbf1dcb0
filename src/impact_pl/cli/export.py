"""`impact-export`: the self-contained model folder (EMA weights) of a checkpoint."""

import argparse
from pathlib import Path

from impact_pl.errors import user_errors


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Entry point of ``impact-export``."""
    parser = argparse.ArgumentParser(prog="impact-export", description=__doc__.splitlines()[0].split(": ", 1)[1])
    parser.add_argument("source", type=Path, help="a checkpoint of impact-train (file or folder), or its run directory")
    parser.add_argument("out", type=Path, help="the folder to write: config.json and model.safetensors")
    parser.add_argument(
        "--half",
        action="store_true",
        help="weights in half the bytes: float16, or bfloat16 if one is too large for it; they are loaded as float32",
    )
    arguments = parser.parse_args(argv)
    from impact_pl.training.checkpoint import export

    export(arguments.source, arguments.out, arguments.half)
    size = (arguments.out / "model.safetensors").stat().st_size
    print(f"wrote {arguments.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
