"""The command line that starts a given training."""

import dataclasses
import sys

import yaml

from impact_pl.config import TrainConfig


def command(config: TrainConfig) -> list[str]:
    """The command line that means ``config``."""
    plain = dataclasses.asdict(config)
    plain.pop("experiment")
    overrides = [f"experiment={config.stage}", "trainer=ddp", *_leaves(plain, "")]
    return [sys.executable, "-m", "impact_pl", "train", *overrides]


def _leaves(node: dict, prefix: str) -> list[str]:
    pairs = ((f"{prefix}{name}", value) for name, value in node.items())
    nested = [
        _leaves(value, f"{key}.") if isinstance(value, dict) else [f"{key}={yaml_value(value)}"] for key, value in pairs
    ]
    return [override for one in nested for override in one]


def yaml_value(value) -> str:
    if isinstance(value, str):
        return value  # taken as it is
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).replace("\n...", "").strip()
    return text.replace(" ", "") if isinstance(value, (dict, list, tuple)) else text
