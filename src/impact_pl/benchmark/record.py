"""What a command measured, as a JSON file, written again after every row: an interrupted run leaves its rows."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch

from impact_pl.benchmark.machine import Rates, describe
from impact_pl.data.partial import write_whole

FORMAT = 1
PARTS = ("latency", "throughput", "scaling", "training", "reading", "precompute", "peers", "outside")


class Record:
    """One command's measurements.

    Args:
        part: which command, one of PARTS.
        command: as it was typed.
        device: what it ran on.
        settings: what holds for all rows.
        rates: of the machine, where they were measured.
        path: of the file; None: nothing is written.
    """

    def __init__(
        self,
        part: str,
        command: str,
        device: torch.device,
        settings: dict[str, Any],
        rates: Rates | None = None,
        path: Path | None = None,
    ) -> None:
        assert part in PARTS, part
        self.path = path
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "part": part,
            "command": command,
            "taken": time.strftime("%Y-%m-%d"),
            "machine": describe(device),
            "rates": None if rates is None else dataclasses.asdict(rates),
            "settings": settings,
            "rows": [],
        }
        self.save()

    def add(self, row: dict[str, Any]) -> None:
        self.content["rows"].append(row)
        self.save()

    def save(self) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps(self.content, indent=1) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """The content of a record's file.

    Raises:
        ValueError: it is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        part, rows = content["part"], content["rows"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not what impact-benchmark --json wrote ({error})") from error
    if content.get("format") != FORMAT or part not in PARTS or not isinstance(rows, list):
        raise ValueError(
            f"{path}: format {content.get('format')}, part {part!r}; this version reads format {FORMAT} of "
            f"{', '.join(PARTS)}"
        )
    return content
