"""The notebook runs from its first cell to its last, offline."""

import os
import sys
from pathlib import Path

import pytest

from tests.helpers.documents import ROOT

nbclient = pytest.importorskip("nbclient", reason="extra 'notebook' is not installed")
nbformat = pytest.importorskip("nbformat", reason="extra 'notebook' is not installed")
pytest.importorskip("ipykernel", reason="extra 'notebook' is not installed")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    programs = str(Path(sys.executable).parent)  # where `impact` is, for its shell cells
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / "quickstart.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    assert (tmp_path / "runs/nb/text/model/model.safetensors").is_file()
    assert (tmp_path / "hum.wav").is_file()
    players = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "Audio" in output.get("data", {}).get("text/plain", "")
    ]
    assert len(players) == 3
