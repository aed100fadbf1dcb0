"""Look up codecs and text encoders by name.

A name is ``KIND`` or ``KIND:ARGUMENT``, for example ``builtin`` or ``t5:/models/flan-t5-large``. Kinds are the
project's own, those that a program adds to the same dict, and entry points of installed packages. Shards and
checkpoints contain such names; they are never evaluated as the path of a class.
"""

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from impact_pl.errors import UserError
from impact_pl.hub import HUB


def known_kinds(own: dict[str, Any], group: str) -> list[str]:
    """List the kinds of ``own`` and those of the entry points in ``group``."""
    return list(dict.fromkeys([*own, *(entry.name for entry in entry_points(group=group))]))


def build_part(what: str, own: dict[str, Callable[..., Any]], group: str, name: str) -> Any:
    """Build the part that ``name`` refers to.

    Args:
        what: Kind of part, for messages.
        own: kind -> factory, called with the argument if the name has one, else without.
        group: Entry point group that offers further kinds.
        name: ``KIND`` or ``KIND:ARGUMENT``.

    Raises:
        UserError: The kind is unknown, takes no argument, or needs one.
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
    """Return a name that is valid from any directory: with an absolute path, or ``hub:ID`` unchanged."""
    return f"{kind}:{source}" if source.startswith(HUB) else f"{kind}:{Path(source).resolve()}"


def is_gone(name: str) -> bool:
    """Check whether a name points to an absolute path that no longer exists."""
    path = Path(name.partition(":")[2] or name)
    return path.is_absolute() and not path.exists()
