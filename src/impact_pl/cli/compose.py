"""Compose a command's configuration from conf/ and ``key=value`` arguments. This is the only module that uses hydra.

Hydra composes the groups (``model=tiny``). Values are parsed here by the type of their field rather than by Hydra's
grammar, which would turn ``name=1.10`` into a number and fail on umlauts, commas and parentheses.
"""

import dataclasses
import difflib
import re
import sys
from importlib.resources import files
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from impact_pl.errors import UserError, shown

Schema = TypeVar("Schema")
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
MAX_INT = 2**63 - 1  # what torch computes with
WANTED = {int: "a whole number", float: "a number", bool: "true or false"}


def compose(name: str, schema: type[Schema], overrides: list[str]) -> Schema:
    """Build the typed configuration of command ``name``.

    Args:
        name: A file of conf/ without its suffix (``train``, ``precompute``), whose defaults list starts with
            ``schema_<name>``.
        schema: The dataclass that validates ``conf/<name>.yaml``.
        overrides: ``key=value`` and ``group=choice`` arguments as typed by the user.

    Raises:
        UserError: A key or choice is unknown, or a value has the wrong type.
    """
    groups, kinds = read_groups(name), field_kinds(schema)
    choices, values, inner = [], {}, {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip("+~-") == key:
            raise UserError(
                f"configuration: {shown(override)}: {_spelling(override, overrides, [*groups, *kinds], name)}"
            )
        if key in groups:
            _check_choices(key, value)
            choices.append(override)
        elif key in kinds:
            values[key] = parse_value(kinds[key], key, value)
        elif key.partition(".")[0] in groups.keys() & kinds.keys():  # a group of dicts, such as logger.wandb.project
            inner[key] = value
        else:
            raise UserError(f"configuration: there is no key {shown(key)}{_nearest(key, [*groups, *kinds], name)}")
    config = _compose_groups(name, schema, choices)
    for key, value in values.items():
        *parents, field = key.split(".")
        target: Any = config
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, field, value)
    for key, value in inner.items():
        _set_inner(config, key, value, name)
    return config


def _set_inner(config: Any, key: str, text: str, name: str) -> None:
    """Set a key inside a group of dicts. Its type is that of the current value, as no schema describes it."""
    group, *parents, field = key.split(".")
    target: Any = getattr(config, group)
    for parent in parents:
        target = target.get(parent) if isinstance(target, dict) else None
    if not isinstance(target, dict) or field not in target:
        raise UserError(f"configuration: there is no key {shown(key)}{_nearest(key, _inner_keys(config, group), name)}")
    kind = type(target[field])
    target[field] = parse_value(kind if kind in WANTED else str, key, text)


def _inner_keys(config: Any, group: str) -> list[str]:
    return [f"{group}.{outer}.{key}" for outer, keys in (getattr(config, group) or {}).items() for key in keys]


def _compose_groups(name: str, schema: type[Schema], choices: list[str]) -> Schema:
    from hydra import compose as hydra_compose  # imported late, so that --help responds at once
    from hydra import initialize_config_module
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    ConfigStore.instance().store(name=f"schema_{name}", node=schema)
    with initialize_config_module("impact_pl.conf", version_base="1.3"):
        return OmegaConf.to_object(hydra_compose(name, overrides=choices))  # type: ignore[return-value]


def read_groups(name: str) -> dict[str, str]:
    """Read the groups in the defaults list of conf/<name>.yaml, each with its default choice."""
    text = files("impact_pl.conf").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    found = re.findall(r"^ +- (?:optional )?(\w+): *(\[.*?\]|\S+)", text, flags=re.MULTILINE)
    return {group: default.replace(" ", "") for group, default in found}


def read_choices(group: str) -> list[str]:
    """List the files of a group."""
    folder = files("impact_pl.conf").joinpath(group)
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def field_kinds(schema: type, prefix: str = "") -> dict[str, Any]:
    """Map every key to the type of its value: ``{"name": str, "model.dim": int, ...}``."""
    kinds: dict[str, Any] = {}
    for name, kind in get_type_hints(schema).items():
        is_section = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        kinds |= field_kinds(kind, f"{prefix}{name}.") if is_section else {f"{prefix}{name}": kind}
    return kinds


def parse_value(kind: Any, key: str, text: str) -> Any:
    """Parse ``text`` as a value of type ``kind``; strings are unchanged.

    Raises:
        UserError: It cannot be parsed, or has the wrong number of elements.
    """
    if kind is str:
        return text
    if get_origin(kind) in (list, tuple):
        parts = [part.strip() for part in text.strip().strip("[]()").split(",") if part.strip()]
        of = get_args(kind)
        if get_origin(kind) is tuple and len(parts) != len(of):
            raise UserError(
                f"configuration: {key}={shown(text)}: expected {len(of)} values, such as [1,2], got {len(parts)}"
            )
        return get_origin(kind)(parse_value(of[0], key, part) for part in parts)
    try:
        value = BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        raise UserError(f"configuration: {key}={shown(text)}: expected {WANTED[kind]}") from None
    if kind is int and not -MAX_INT <= value <= MAX_INT:
        raise UserError(f"configuration: {key}={shown(text)}: expected a whole number of at most 64 bits")
    return value


def _check_choices(group: str, value: str) -> None:
    known = read_choices(group)
    for choice in value.strip("[]").split(","):
        if choice not in known:
            near = difflib.get_close_matches(choice, known, n=1)
            suggestion = f"did you mean {group}={near[0]}? " if near else ""
            raise UserError(
                f"configuration: {suggestion}there is no {group}={shown(choice)}, choose one of {', '.join(known)}"
            )


def _spelling(override: str, overrides: list[str], known: list[str], name: str) -> str:
    """Suggest how to write an argument that is not ``key=value``."""
    key, equals, value = override.lstrip("+~-").partition("=")
    key = key if key in known else key.replace("-", "_")
    if key not in known:
        near = _nearest(key, known, name)
        wanted = "options are written without dashes here" if override.startswith("-") else "expected key=value"
        return f"there is no key {key}{near}" if equals else f"{wanted}{near}"
    if override.startswith("-") and not equals:
        following = overrides[overrides.index(override) + 1 :]
        value = following[0] if following and "=" not in following[0] else "VALUE"
        return f"options are written without dashes here: write {key}={shown(value)}"
    return f"write {key}={shown(value or 'VALUE')}"


def _nearest(key: str, known: list[str], name: str) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    near = near or [each for each in known if each.rpartition(".")[2] == key.rpartition(".")[2]]
    inside = [each for each in known if each.startswith(f"{key}.")]
    help_text = f" (`impact {name} --help` lists keys and choices)"
    if inside:
        return f": it is a group of keys, such as {inside[0]}{help_text}"
    return f"; did you mean {near[0]}?{help_text}" if near else help_text


def to_plain(config: Any) -> dict:
    """Turn a dataclass configuration into plain dicts, lists and numbers (for YAML and checkpoints)."""
    return dataclasses.asdict(config)


def print_config(config: Any) -> None:
    """Print a configuration as YAML."""
    import yaml

    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in to_plain(config).items()}
    for section in plain.values():
        if isinstance(section, dict):
            section |= {key: list(value) for key, value in section.items() if isinstance(value, tuple)}
    print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), end="")


def take_flag(argv: list[str], flag: str, value: str) -> tuple[bool, list[str]]:
    """Remove ``flag`` from the arguments.

    Return whether it was there, and the others; ``value`` may follow it (``--cfg job``).
    """
    if flag not in argv:
        return False, argv
    index = argv.index(flag)
    rest = argv[index + 1 :]
    return True, argv[:index] + (rest[1:] if rest[:1] == [value] else rest)


def print_help_if_asked(argv: list[str], text: str) -> None:
    """Print ``text`` and exit if ``-h`` or ``--help`` is among the arguments."""
    if {"-h", "--help"} & set(argv):
        print(text.strip())
        sys.exit(0)


def format_groups(name: str) -> str:
    """Format every group with its choices, the default first, one group per line (for ``--help``)."""
    lines = []
    for group, default in read_groups(name).items():
        others = [choice for choice in read_choices(group) if choice != default]  # a default may be [a,b]
        lines.append(f"  {group:<12} {' | '.join([f'{default} (default)', *others])}")
    return "\n".join(lines)


def format_keys(schema: type, leave_out: tuple[str, ...] = ()) -> str:
    """Format every configurable key with its default, one per line (for ``--help``)."""
    lines = []
    for key in field_kinds(schema):
        if key in leave_out:
            continue
        value: Any = schema()
        for field in key.split("."):
            value = getattr(value, field)
        lines.append(f"  {key}={value if value != '' else chr(39) * 2}")
    return "\n".join(lines)
