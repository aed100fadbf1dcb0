"""The script of the first run on a GPU, tried on a CPU: every part gives its rows, and an error ends only its part."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lab.gpu.first_light import Row, Table

SCRIPT = Path(__file__).parents[2] / "gpu" / "first_light.sh"


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path):
    environ = os.environ | {"DEVICE": "cpu", "OUT": str(tmp_path), "PYTHON": sys.executable}
    command = ["bash", SCRIPT, "--without", "compiled", "compiled,"]  # a compiler takes minutes
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "first_light.md").read_text()
    assert "failed" not in said
    assert "tests collected" in said
    for part in (
        "decoding 1",
        "decoding 2",
        "codec",
        "profile of a decoding",
        "training",
        "ragged",
        "profile of a step",
    ):
        assert f"| {part}" in said
    assert "reference, 32-true, batch 2" in said
    assert (tmp_path / "decoding.txt").stat().st_size > 1000
    assert (tmp_path / "step.txt").stat().st_size > 1000


def test_rows_are_saved_at_once_and_an_error_is_a_row(tmp_path):
    path = tmp_path / "first_light.md"

    def rows():
        yield Row("first", 2.0)
        assert "| first | 2 " in path.read_text()
        yield Row("second", 1.0, "twice as fast")
        raise RuntimeError("out of luck")

    shown = Table(path, torch.device("cpu"), "a machine")
    shown.run("part", rows)
    shown.run("next", lambda: iter([Row("here")]))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in path.read_text().splitlines()[4:] if line]
    assert [line[1] for line in lines] == ["first", "second", "failed", "here"]
    assert lines[1][3:] == ["2", "", "twice as fast"]
    assert lines[2][5] == "RuntimeError: out of luck"
