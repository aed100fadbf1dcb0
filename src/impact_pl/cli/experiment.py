"""Load experiments of conf/ in Python, composed as by ``impact train experiment=NAME``."""

from typing import Any

from impact_pl.cli.compose import compose
from impact_pl.config import TrainConfig


def load_experiment(name: str, /, **overrides: Any) -> TrainConfig:
    """Compose an experiment's configuration.

        load_experiment("text", model="tiny", trainer="cpu", data={"path": "latents"}, name="mine/text")

    Args:
        name: Name of a file in conf/experiment/.
        overrides: Keys of :class:`TrainConfig`. A section is a dict of its keys, or the name of a file in its folder of
            conf/. A single key of a section is set with ``**{"model.dim": 64}``.

    Raises:
        UserError: The experiment, a key or a choice is unknown, or a value has the wrong type.
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
    """Format a value as it is typed after ``key=``; strings are unchanged."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(_written, value))}]" if isinstance(value, list | tuple) else str(value)
