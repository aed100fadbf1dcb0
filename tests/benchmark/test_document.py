"""The committed page is what its records make: nothing in it was typed."""

import shutil
from pathlib import Path

import pytest

from impact_pl.benchmark.document import write_document
from impact_pl.benchmark.tables import number, reference_of, table

DOCUMENT = Path(__file__).parents[2] / "docs" / "performance.md"


def test_the_committed_page_is_made_of_its_records(tmp_path):
    records = sorted(DOCUMENT.with_suffix("").glob("*.json"))
    if not records:
        pytest.skip("no records are committed")
    folder = tmp_path / "performance"
    folder.mkdir()
    copies = [Path(shutil.copy(path, folder)) for path in records]
    write_document(copies, tmp_path / "performance.md")
    assert (tmp_path / "performance.md").read_text() == DOCUMENT.read_text()
    pictures = {path.name for path in DOCUMENT.with_suffix("").glob("*.svg")}
    assert {path.name for path in folder.glob("*.svg")} == pictures


def test_numbers_keep_their_significant_digits():
    shown = [number(value) for value in (125.31, 1573.0, 4.567, 0.04567, 2e-6, 0.0, None)]
    assert shown == ["125", "1,573", "4.57", "0.0457", "0.000002", "0", ""]


def test_tables_are_markdown():
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n|---|---:|\n| x | 1 |"


def test_a_reference_is_taken_at_its_best_and_whole_where_it_is():
    rows = [
        {"batch": 1, "iterations": 64, "seconds": 110.0, "whole": False},
        {"batch": 1, "iterations": 64, "seconds": 125.0, "whole": True},
        {"batch": 8, "iterations": 64, "seconds": 800.0, "whole": False},
        {"batch": 8, "iterations": 64, "seconds": 779.0, "whole": False},
    ]
    outside = [{"rows": rows}]
    same = ("batch", "iterations")
    assert reference_of({"batch": 1, "iterations": 64}, outside, same) == 125.0
    assert reference_of({"batch": 8, "iterations": 64}, outside, same) == 779.0
    assert reference_of({"batch": 2, "iterations": 64}, outside, same) is None
