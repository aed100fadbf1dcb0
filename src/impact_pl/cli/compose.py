"""Compose a command's configuration from conf/ and ``key=value`` arguments; the only user of hydra."""

import dataclasses
import difflib
import re
import sys
from typing import Any, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from impact_pl.errors import UserError

Schema = TypeVar("Schema")


def compose(name: str, schema: type[Schema], overrides: list[str]) -> Schema:
    """Build the typed configuration of command ``name``.

    Args:
        name: a file of conf/ without its suffix (``train``, ``precompute``), whose defaults list starts with
            ``schema_<name>``.
        schema: the dataclass that ``conf/<name>.yaml`` is checked against.
        overrides: ``key=value`` and ``group=choice`` arguments as typed by the user.

    Raises:
        ValueError: a misspelt key, an unknown choice, or a value of the wrong type.
    """
    ConfigStore.instance().store(name=f"schema_{name}", node=schema)
    try:
        with initialize_config_module("impact_pl.conf", version_base="1.3"):
            config = hydra_compose(name, overrides=overrides)
        return OmegaConf.to_object(config)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error, name, schema)) from error


def _explain(error: Exception, name: str, schema: type) -> str:
    if isinstance(error, MissingConfigException) and error.options:
        group, choice = str(error.missing_cfg_file).split("/", maxsplit=1)
        return f"configuration: there is no {group}={choice}, choose one of {', '.join(error.options)}"
    causes: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(str(cause).split())
        if text and text not in causes:
            causes.append(text)
        cause = cause.__cause__
    said = " / ".join(causes)
    if bare := re.search(r"override (\S+?)=(\S+) / .* is not a ListConfig", said):
        key, value = bare.groups()
        return f"configuration: {key}={value}: it takes a list, write {key}=[{value}]"
    helps = f"`impact-{name} --help` lists keys and choices"
    if unknown := re.match(r"Could not override '(\S+?)'", said):
        known = [key for key, _ in _flatten(to_plain(schema()), "")]
        near = difflib.get_close_matches(unknown[1], known, n=1)
        return f"configuration: there is no key {unknown[1]}{f'; did you mean {near[0]}?' if near else ''} ({helps})"
    if re.match(r"Ambiguous value|LexerNoViableAlt|mismatched input|extraneous input|no viable", said):
        said += """; a value with , = or the like goes into quotes twice: "key='a,b'\""""
    return f"configuration: {said} ({helps})"


def to_plain(config: Any) -> dict:
    """A dataclass configuration as plain dicts, lists and numbers (for YAML and checkpoints)."""
    return dataclasses.asdict(config)


def print_help_if_asked(argv: list[str], text: str) -> None:
    """Print ``text`` and stop when ``-h`` or ``--help`` stands among the arguments."""
    if {"-h", "--help"} & set(argv):
        print(text.strip())
        sys.exit(0)


def format_keys(schema: type) -> str:
    """Every configurable key with its default, one a line (for ``--help``)."""
    lines = []
    for key, value in _flatten(to_plain(schema()), ""):
        lines.append(f"  {key}={value if value != '' else chr(39) * 2}")
    return "\n".join(lines)


def _flatten(node: Any, prefix: str) -> list[tuple[str, Any]]:
    if isinstance(node, dict):
        return [pair for key, child in node.items() for pair in _flatten(child, f"{prefix}.{key}" if prefix else key)]
    return [(prefix, node)]
