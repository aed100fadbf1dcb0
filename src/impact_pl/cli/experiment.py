"""Experiments of conf/ in Python: what ``impact train experiment=NAME`` composes."""

from typing import Any

from impact_pl.cli.compose import compose
from impact_pl.config import TrainConfig


def load_experiment(name: str, /, **overrides: Any) -> TrainConfig:
    """Compose an experiment's configuration.

    load_experiment("text", model="tiny", trainer="cpu", data={"path": "latents"}, name="mine/text")

    Args:
        name: of conf/experiment/.
        overrides: keys of :class:`TrainConfig`; a section is a dict of its keys, or the name of a file in its folder of
            conf/, or under ``**{"model.dim": 64}`` a single key.

    Raises:
        UserError: an unknown experiment, key or choice, or a value of the wrong type.
    """
    arguments = [f"experiment={name}"]
    for key, value in overrides.items():
        arguments += _arguments(key, value)
    return compose("train", TrainConfig, arguments)


def _arguments(key: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [argument for name, child in value.items() for argument in _arguments(f"{key}.{name}", child)]
    return [f"{key}={_written(value)}"]


def _written(value: Any) -> str:
    """A value as it stands on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    return str(value)
