"""Parse command lines of the program ``impact``, as pages and scripts show them."""

import importlib

from impact_pl.cli import compose, data, export, listening, main
from impact_pl.config import PrecomputeConfig, TrainConfig

SCHEMAS = {"train": TrainConfig, "precompute": PrecomputeConfig}


def parse_impact(name: str, *arguments: str) -> None:
    """Parse the arguments of ``impact NAME``; runs nothing."""
    assert name in main.COMMANDS
    if {"--help", "--version"} & set(arguments):
        return
    if name in SCHEMAS:
        compose.compose(name, SCHEMAS[name], [argument for argument in arguments if argument != "--cfg"])
    elif name == "data":
        data.build_parser(arguments[0]).parse_args(arguments[1:])
    elif name == "listening" and arguments[0] == "ratings":
        listening.build_ratings_parser().parse_args(arguments[1:])
    else:
        parsed = importlib.import_module(f"impact_pl.cli.{name}").build_parser().parse_args(arguments)
        if name == "export":
            export.parse_decoding(parsed.decoding)
        if name == "generate":
            assert parsed.captions or parsed.captions_file or parsed.timeline
