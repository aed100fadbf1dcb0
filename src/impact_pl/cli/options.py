"""Types of command-line options, for validation before anything is loaded."""

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)
SEED_LIMIT = 2**31


def positive_int(text: str) -> int:
    """Parse an integer of at least 1."""
    value = _number(int, text, "a whole number from 1 on")
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return value


def seed(text: str) -> int:
    """Parse an integer in [0, 2^31)."""
    value = _number(int, text, "a whole number")
    if not 0 <= value < SEED_LIMIT:
        raise argparse.ArgumentTypeError(f"{text}: a seed is from 0 to {SEED_LIMIT - 1}")
    return value


def seconds(text: str) -> float:
    """Parse a duration above 0."""
    value = _number(float, text, "a number of seconds")
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text}: expected seconds above 0")
    return value


def minutes(text: str) -> float:
    """Parse a number of minutes above 0."""
    value = _number(float, text, "a number of minutes")
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text}: expected minutes above 0")
    return value


def names(text: str) -> list[str]:
    """Parse distinct names separated by commas."""
    found = [name.strip() for name in text.split(",")]
    if "" in found or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of distinct names separated by commas")
    return found


def _number(kind: Callable[[str], Number], text: str, wanted: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None


def parser_of(program: str, description: str) -> argparse.ArgumentParser:
    """Create a parser whose help prints ``description`` verbatim."""
    return argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
