"""JSON file of a command's measurements, rewritten with every row, so that an interrupted run keeps its rows.

Rows of variants measured in turns are complete together, after the last turn. Until the first row the file is not
changed.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch

from impact_pl.errors import UserError
from impact_pl.partial import write_whole
from lab.benchmark.machine import describe

FORMAT = 1  # of the files that --json writes and of those that are written by hand
REQUIRED = ("command", "taken", "machine", "settings", "rows")
OUTSIDE_REQUIRED = ("how",)  # of a record of another implementation, which somebody wrote by hand
OUTSIDE_ROW = ("batch", "duration", "precision", "seconds", "whole")  # and what a generation has
PARTS = ("latency", "throughput", "scaling", "training", "reading", "peers", "outside")


class BenchmarkRecord:
    """Measurements of one command.

    Args:
        part: Which command, one of PARTS.
        command: The command line.
        device: Device of the measurements.
        settings: Settings shared by all rows.
        product_rates: FLOP/s of the machine's matrix products by precision, if measured.
        path: Path of the file; None: nothing is written.
    """

    def __init__(
        self,
        part: str,
        command: str,
        device: torch.device,
        settings: dict[str, Any],
        product_rates: dict[str, float] | None = None,
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
            "product_rates": product_rates,
            "settings": settings,
            "rows": [],
        }

    def add(self, row: dict[str, Any]) -> None:
        self.content["rows"].append(row)
        self.save()

    def save(self) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps(self.content, indent=1) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Read a record's file.

    Raises:
        UserError: It is not a record, or has no rows.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        form, part = content.get("format"), content["part"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not what python -m lab.benchmark --json wrote ({error})") from error
    if form != FORMAT or part not in PARTS:
        raise UserError(
            f"{path}: format {form}, part {part!r}; this version reads format {FORMAT} of {', '.join(PARTS)}"
        )
    require(path, content, REQUIRED, "the record")
    require(path, content["machine"], ("name",), "machine")
    if not isinstance(content["rows"], list) or not content["rows"]:
        raise UserError(f"{path} has no rows: its command ended before the first was complete; run it again")
    if part == "outside":
        require(path, content, OUTSIDE_REQUIRED, "the record")
        require(path, content["settings"], ("model",), "settings")
        for index, row in enumerate(content["rows"], start=1):
            require(path, row, OUTSIDE_ROW, f"row {index}")
            if not row.get("training"):
                require(path, row, ("iterations", "diffusion_steps"), f"row {index}")
    return content


def require(path: Path, found: Any, keys: tuple[str, ...], what: str) -> None:
    """Check that ``found`` has ``keys``.

    Raises:
        UserError: It does not.
    """
    if not isinstance(found, dict):
        raise UserError(f"{path}: {what} is no object with {', '.join(keys)}")
    if missing := [key for key in keys if key not in found]:
        raise UserError(f"{path}: {what} lacks {', '.join(missing)}; docs/benchmarks.md says what a record holds")
