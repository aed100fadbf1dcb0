"""The command line that starts a given training."""

import dataclasses
import sys

import yaml

from impact_pl.config import TrainConfig


def command(config: TrainConfig) -> list[str]:
    """The command line that means ``config``."""
    plain = dataclasses.asdict(config)
    plain.pop("experiment")
    overrides = [f"experiment={config.stage}", "trainer=ddp"]
    for key, value in plain.items():
        if isinstance(value, dict):
            overrides += [f"{key}.{name}={yaml_value(v)}" for name, v in value.items()]
        else:
            overrides.append(f"{key}={yaml_value(value)}")
    return [sys.executable, "-m", "impact_pl", "train", *overrides]


def yaml_value(value) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).replace("\n...", "").strip()
    return text.replace(" ", "") if isinstance(value, (dict, list, tuple)) else text
