"""The command-line parsers of data_prep look alike."""

import argparse


def parser_of(module: str, doc: str) -> argparse.ArgumentParser:
    """A parser named after ``python -m impact_pl.data_prep.<module>``, described by the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m impact_pl.data_prep.{module}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
