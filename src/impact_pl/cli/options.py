"""The commands' argument parser, and types of options, which are validated before anything is loaded."""

import argparse
import difflib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from impact_pl.errors import USER_ERROR, escaped

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


def port(text: str) -> int:
    """Parse a TCP port."""
    value = _number(int, text, "a whole number")
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text}: a port is from 1 to 65535")
    return value


def seconds(text: str) -> float:
    """Parse a duration above 0."""
    return _positive(text, "seconds")


def finite(text: str) -> float:
    """Parse a number."""
    value = _number(float, text, "a number")
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}: expected a finite number")
    return value


def minutes(text: str) -> float:
    """Parse a number of minutes above 0."""
    return _positive(text, "minutes")


def _positive(text: str, unit: str) -> float:
    value = _number(float, text, f"a number of {unit}")
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text}: expected {unit} above 0")
    return value


def page(text: str) -> Path:
    """Parse the name of a page to write, which can therefore be neither a sound nor a list of captions."""
    if Path(text).suffix.lower() not in (".html", ".htm"):
        raise argparse.ArgumentTypeError(f"{text!r}: a page is written there, choose a name that ends in .html")
    return Path(text)


def names(text: str) -> list[str]:
    """Parse distinct, comma-separated names."""
    found = [name.strip() for name in text.split(",")]
    if "" in found or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of distinct names separated by commas")
    return found


def _number(kind: Callable[[str], Number], text: str, wanted: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None


class Parser(argparse.ArgumentParser):
    """Argument parser that reports a mistake in one line and names the command's help; descriptions stay as written."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Exit with code 2. argparse would print the whole usage, which for some commands fills a screen."""
        text = message.removeprefix("argument ").replace("the following arguments are required", "missing")
        line = f"{text}{self._nearest(message)} (`{self.prog} --help` lists the options)"
        print(f"error: {escaped(line)}", file=sys.stderr)
        sys.exit(USER_ERROR)

    def _nearest(self, message: str) -> str:
        _, is_unknown, unknown = message.partition("unrecognized arguments: ")
        options = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown.split()[0], options, n=1) if is_unknown else []
        return f"; did you mean {near[0]}?" if near else ""


def parser_of(program: str, description: str) -> Parser:
    """Create a parser whose help prints ``description`` verbatim."""
    return Parser(prog=program, description=description)


VOCODER = "of AudioLDM's codec: hifigan (its own, the default), fast (ours), griffin_lim, or a folder"


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Add the options for a model's codec, text encoder and adapters, and for the device."""
    add = parser.add_argument
    add("--codec", help="name or folder of the codec (default: as stored in the model)")
    add("--vocoder", help=VOCODER)
    add("--text-encoder", help="name of the text encoder, such as t5:FOLDER (default: as stored in the model)")
    add("--adapter", action="append", default=[], metavar="FOLDER", help="adapter from impact tune --lora; may repeat")
    add(
        "--strength",
        action="append",
        default=[],
        type=finite,
        metavar="X",
        help="of each adapter, in their order (default: 1)",
    )
    add("--allow-hub", action="store_true", help="download codec and text encoder if the model names them as hub:ID")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (the default)")
