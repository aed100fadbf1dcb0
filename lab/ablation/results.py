"""Collect the metrics of an ablation in one small file, for every row, setting and seed."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from impact_pl.errors import UserError
from impact_pl.evaluation.evaluate import versions
from impact_pl.files import read_json
from impact_pl.partial import write_whole
from lab.ablation.plan import Plan
from lab.ablation.run import read_result
from lab.ablation.tasks import Task

OF_SOUNDS = {  # metric -> (heading, digits, whether higher is better)
    "fd_yamnet": ("FD-YAMNet", 1, False),
    "kl": ("KL", 2, False),
    "inception_score": ("IS", 2, True),
    "accuracy": ("accuracy", 3, True),
    "text_relevance": ("relevance", 3, True),
}
OF_SPEED = {"latency": ("latency, s", 2, False), "memory": ("memory, MB", 0, False)}
METRICS = OF_SOUNDS | OF_SPEED
FORMAT = 1

Values = dict[str, float]  # values of one metric by seed; of the latency by repeat
Rows = dict[str, dict[str, Values]]  # row or setting -> metric -> values


def collect(plan: Plan, size: str, tasks: Sequence[Task], out: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Collect the measurements of finished tasks.

    Returns:
        For JSON: the plan, ``reference`` (rows real, codec, noise -> metrics) and ``rows`` (row or setting -> metric ->
        values), in the plan's order.
    """
    reference: dict[str, dict[str, float]] = {}
    rows: Rows = {}
    made_with: dict[str, None] = {}  # revisions, in order
    for task in tasks:
        result = read_result(out, task)
        if result is not None:
            made_with[result["code"]] = None
        if result is None or result["figures"] is None:
            continue
        if task.name == "reference":
            of = {row["name"]: row for row in result["figures"]["rows"]}
            reference = {"real": chosen(of["real"]), "codec": chosen(of["generated"]), "noise": chosen(of["noise"])}
            facts = facts | {"samples": result["figures"]["num_samples"]}
        elif task.phase == "metrics":
            of = {row["name"]: row for row in result["figures"]["rows"]}
            for name, subject in task.subjects.items():
                for key, value in chosen(of[name]).items():
                    rows.setdefault(subject, {}).setdefault(key, {})[str(task.seed)] = value
        elif task.phase == "speed":
            row = rows.setdefault(task.subjects[""], {})
            row["latency"] = {str(index): value for index, value in enumerate(result["figures"]["latency"])}
            row["memory"] = {"0": result["figures"]["memory"]}
    return {
        "format": FORMAT,
        "size": size,
        "facts": facts | {"cores": os.cpu_count(), "code": ", ".join(made_with), "versions": versions()},
        "plan": dataclasses.asdict(plan),
        "reference": reference,
        "rows": rows,
    }


def chosen(row: dict[str, Any]) -> dict[str, float]:
    """Select the metrics of a row of `impact evaluate` that an ablation reports."""
    return {key: row[key] for key in OF_SOUNDS if row.get(key) is not None}


def write_results(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(rounded(results), indent=1) + "\n")


def rounded(value: Any) -> Any:
    """Round numbers to six significant digits; the rest is noise, and the file is committed."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def read_results(path: Path) -> dict[str, Any]:
    """Read a file written by :func:`write_results`.

    Raises:
        UserError: It is not such a file.
    """
    results = read_json(path, dict[str, Any])
    known = results.get("format") == FORMAT
    if not known or not all(isinstance(results.get(key), dict) for key in ("facts", "plan", "rows")):
        raise UserError(f"{path}: not the results of an ablation in format {FORMAT}")
    return results
