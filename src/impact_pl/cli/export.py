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
    arguments = parser.parse_args(argv)
    from impact_pl.training.checkpoint import export

    export(arguments.source, arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
