"""How a data_prep command ends: one clear line for a user's mistake (exit code 2), 130 after Ctrl-C."""

import argparse
import functools
import sys
from collections.abc import Callable


def ends_clearly(main: Callable) -> Callable:
    """Like ``impact_pl.cli.errors.user_errors``, which this layer may not import."""

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> None:
        try:
            main(argv)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted: what was finished is kept; the same command continues.", file=sys.stderr)
            sys.exit(130)

    return wrapped


def parser_of(module: str, doc: str) -> argparse.ArgumentParser:
    """A parser named after ``python -m impact_pl.data_prep.<module>``, described by the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m impact_pl.data_prep.{module}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
