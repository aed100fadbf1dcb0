"""Look up codecs and text encoders by name.

A name is ``KIND`` or ``KIND:ARGUMENT``, for example ``builtin`` or ``t5:/models/flan-t5-large``. A kind is one of the
project's own, one that a program has put into the same dict, or one that an installed package offers as an entry point.
Names stand in shards and checkpoints; none of them is ever evaluated as the path of a class.
"""

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from impact_pl.errors import UserError
from impact_pl.hub import HUB


def known_kinds(own: dict[str, Any], group: str) -> list[str]:
    """The kinds of ``own``, and those of installed packages' entry points in ``group``."""
    return list(dict.fromkeys([*own, *(entry.name for entry in entry_points(group=group))]))


def build_part(what: str, own: dict[str, Callable[..., Any]], group: str, name: str) -> Any:
    """Make the part that ``name`` calls for.

    Args:
        what: what it is, for messages.
        own: kind -> what makes it; called with the argument where the name has one, else with nothing.
        group: of entry points that offer further kinds.
        name: ``KIND`` or ``KIND:ARGUMENT``.

    Raises:
        ValueError: no such kind, or one that takes no argument, or that needs one.
    """
    kind, colon, argument = name.partition(":")
    make = own.get(kind)
    if make is None:
        offered = [entry for entry in entry_points(group=group) if entry.name == kind]
        if not offered:
            raise UserError(f"no {what} '{name}': choose one of {', '.join(known_kinds(own, group))}")
        make = offered[0].load()
    given = [argument] if colon else []
    try:
        inspect.signature(make).bind(*given)
    except TypeError as error:
        wanted = f"{kind}:ARGUMENT, it needs one" if not colon else f"{kind} alone, it takes no argument"
        raise UserError(f"{what} '{name}': write {wanted}") from error
    return make(*given)


def full_name(kind: str, source: str) -> str:
    """The name that finds a part again from anywhere: a folder's or file's absolute path, or ``hub:ID`` as it is."""
    return f"{kind}:{source}" if source.startswith(HUB) else f"{kind}:{Path(source).resolve()}"


def is_gone(name: str) -> bool:
    """Whether a name points to an absolute path where nothing is any more."""
    path = Path(name.partition(":")[2] or name)
    return path.is_absolute() and not path.exists()
