"""The committed page is what its records make: nothing in it was typed."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from lab.benchmark.document import write_document
from lab.benchmark.record import Record, read_record
from lab.benchmark.tables import number, published_seconds, reference_of, table

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


ROW = {"batch": 8, "duration": 10.24, "iterations": 64, "diffusion_steps": 100, "preset": False}
OUTSIDE = {
    "format": 1, "part": "outside", "command": "python time_it.py", "taken": "2026-01-31",
    "machine": {"name": "Some processor"}, "how": "With a stopwatch.", "settings": {"model": "base"},
    "rows": [
        {"batch": 1, "duration": 10.24, "iterations": 64, "diffusion_steps": 100, "precision": "32-true",
         "seconds": 125.0, "whole": True},
        {"batch": 8, "duration": 10.24, "training": True, "precision": "bf16", "seconds": 2.5, "whole": True},
    ],
}  # fmt: skip


def test_the_papers_seconds_stand_beside_the_papers_work_alone():
    settings = {"model": "base", "set": []}
    assert published_seconds(ROW, settings) == 22.2
    for other in ({"duration": 5.0}, {"batch": 1}, {"diffusion_steps": 25}, {"preset": True}, {"iterations": 5}):
        assert published_seconds(ROW | other, settings) is None
    for other in ({"model": "large"}, {"set": ["model.head=consistency"]}):
        assert published_seconds(ROW, settings | other) is None


def write(path: Path, content: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_a_record_written_by_hand_makes_a_page(tmp_path):
    """With what docs/benchmarks.md asks for, and nothing else."""
    write_document([write(tmp_path / "theirs.json", OUTSIDE)], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    for line in (
        "## Some processor",
        "With a stopwatch.",
        "| generation, 64 x 100 | 1 | 10.24 | 32-true | 125 | whole |",
        "| training step | 8 | 10.24 | bf16 | 2.5 | whole |",
    ):
        assert line in page.splitlines()


@pytest.mark.parametrize("key", ["command", "taken", "machine", "settings", "how", "rows"])
def test_a_record_that_lacks_something_is_refused(tmp_path, key):
    path = write(tmp_path / "theirs.json", {name: value for name, value in OUTSIDE.items() if name != key})
    with pytest.raises(ValueError, match=f"the record lacks {key}"):
        read_record(path)


@pytest.mark.parametrize("key", ["batch", "duration", "iterations", "diffusion_steps", "precision", "seconds", "whole"])
def test_rows_by_hand_are_complete(tmp_path, key):
    rows = [{name: value for name, value in OUTSIDE["rows"][0].items() if name != key}]
    with pytest.raises(ValueError, match=f"row 1 lacks {key}"):
        read_record(write(tmp_path / "theirs.json", OUTSIDE | {"rows": rows}))


def test_a_record_without_rows_is_refused(tmp_path):
    for part in ("latency", "training", "peers", "outside"):
        with pytest.raises(ValueError, match="has no rows"):
            read_record(write(tmp_path / "empty.json", OUTSIDE | {"part": part, "rows": []}))


def test_records_of_the_same_name_are_refused(tmp_path):
    paths = [write(tmp_path / folder / "latency.json", OUTSIDE) for folder in ("cpu", "gpu")]
    with pytest.raises(ValueError, match=r"gpu/latency\.json: another record is called latency"):
        write_document(paths, tmp_path / "page.md")


def test_a_record_is_not_written_before_its_first_row(tmp_path):
    path = tmp_path / "latency.json"
    path.write_text("an earlier one")
    record = Record("latency", "python -m lab.benchmark latency", torch.device("cpu"), {}, path=path)
    assert path.read_text() == "an earlier one"
    record.add({"seconds": 1.0})
    assert read_record(path)["rows"] == [{"seconds": 1.0}]
