"""Schemas of the result files: metrics.json, and ratings.json of a listening test."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from impact_pl.errors import UserError
from impact_pl.evaluation.intervals import Interval
from impact_pl.files import read_json


class _Parsed(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)  # later versions may add keys


class ResultRow(_Parsed):
    """Row of a table. In the file, ``<key>``, ``<key>_interval`` and ``<key>_shuffled`` are siblings."""

    name: str
    values: dict[str, float | None]
    intervals: dict[str, Annotated[Interval, Strict(False)] | None]  # lists in JSON

    @model_validator(mode="before")
    @classmethod
    def _sort_keys(cls, row: Any) -> Any:
        if not isinstance(row, dict):
            return row
        intervals = {key: value for key, value in row.items() if key.endswith("_interval")}
        rest = row.keys() - intervals.keys() - {"name"}
        return {
            **({"name": row["name"]} if "name" in row else {}),
            "values": {key: row[key] for key in sorted(rest) if not key.endswith("_by_label")},
            "intervals": {key.removesuffix("_interval"): value for key, value in intervals.items()},
        }

    def get(self, key: str) -> float | None:
        return self.values.get(key)


class HeardLength(_Parsed):
    """Duration in seconds that a network's sounds were fitted to; None: complete sounds."""

    fitted_seconds: float | None


class ListName(_Parsed):
    name: str


class EvaluationResult(_Parsed):
    """Output of `impact evaluate`, as far as the report uses it."""

    num_samples: int = Field(ge=1)
    rows: list[ResultRow] = Field(min_length=1)
    test_list: ListName | None = None
    networks: dict[str, HeardLength] = {}
    warnings: list[str] = []
    notes: list[str] = []

    @property
    def by_name(self) -> dict[str, ResultRow]:
        return {row.name: row for row in self.rows}


class RatingsResult(_Parsed):
    """Output of `impact listening ratings`."""

    num_raters: int = Field(ge=1)
    num_samples: int = Field(ge=1)
    rows: list[ResultRow] = Field(min_length=1)


def read_metrics(path: Path) -> EvaluationResult:
    """Read metrics.json.

    Raises:
        UserError: It was not written by `impact evaluate`, or has no row ``generated``.
    """
    result = read_json(path, EvaluationResult, remedy="write it again with impact evaluate")
    if "generated" not in result.by_name:
        raise UserError(f"{path}: the row generated is missing; it has {', '.join(sorted(result.by_name))}")
    return result


def read_ratings_result(path: Path) -> RatingsResult:
    """Read ratings.json.

    Raises:
        UserError: It was not written by `impact listening ratings`, or a row has no ratings.
    """
    result = read_json(path, RatingsResult, remedy="write it again with impact listening")
    unrated = next((row.name for row in result.rows if row.get("REL") is None or row.get("OVL") is None), None)
    if unrated is not None:
        raise UserError(f"{path}: row {unrated!r} has no REL or no OVL; write it again with impact listening")
    return result
