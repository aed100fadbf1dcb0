"""The command: what it refuses, what it lists, and the whole way at the smallest size."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from impact_pl.data.manifest import read_manifest, write_manifest
from lab.ablation.__main__ import main


@pytest.fixture
def data(sounds, tmp_path):
    """The test sounds, held-out ones with labels."""
    records = [
        dataclasses.replace(record, labels=("rain", "dog")[: index % 2 + 1])
        for index, record in enumerate(read_manifest(sounds))
    ]
    write_manifest(tmp_path / "m.jsonl", records)
    return tmp_path / "m.jsonl"


def test_commands_are_listed_and_not_run(data, tmp_path, run, capsys):
    arguments = ["--size", "smoke", "--data", data, "--out", tmp_path / "out", "--list"]
    assert run(main, *arguments, "--only", "head_mse", "--seed", "1") == 0
    listed = capsys.readouterr().out
    assert "seed1/head_mse/text (text)" in listed
    assert "impact train experiment=head_mse" in listed
    assert "seed0" not in listed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["captions.jsonl", "clips.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "1"], "--seed chooses a seed of one row"),
        (["--only", "head_x"], "--only: there is no row 'head_x'; rows are full, no_pretrain"),
        (["--only", "full", "--seed", "9"], "there is no row 'full' of seed 9; rows"),
        (["--only", "full", "--publish", "docs"], "leave --only out"),
        (["--data", "absent.jsonl"], "absent.jsonl: no such manifest"),
        (["--against", "absent.json"], "absent.json: no such file"),
        (["--against", "m.jsonl"], "m.jsonl: not JSON"),
        (["--against", "record.json"], "record.json: not the results of an ablation in format 1"),
        (["--size", "builtin", "--text-encoder", "minilm"], "trains nothing, and its model has its own"),
    ],
)
def test_mistakes_end_with_a_message(data, tmp_path, run, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "record.json").write_text('{"format": 1, "rows": []}')
    known = ["--size", "smoke", "--data", data, "--out", tmp_path / "out"]
    assert run(main, *known, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_what_failed_is_not_published(data, tmp_path, run, capsys, monkeypatch):
    """The page among the results says how far it came; the one that is published stays."""
    monkeypatch.setattr("lab.ablation.run.run_tasks", lambda *given: "seed1/full/text failed")
    monkeypatch.setattr("lab.ablation.run.read_result", lambda *given: {"code": "1", "figures": None})
    monkeypatch.setattr("impact_pl.data.index.ShardIndex.load", lambda folder: SimpleNamespace(num_samples=1))
    monkeypatch.setattr("lab.ablation.results.read_result", lambda *given: None)
    known = ["--size", "smoke", "--data", data, "--out", tmp_path / "out", "--publish", tmp_path / "docs"]
    assert run(main, *known) == 2
    assert "seed1/full/text failed" in capsys.readouterr().err
    assert (tmp_path / "out/ablation.md").is_file()
    assert not (tmp_path / "docs").exists()


@pytest.mark.slow
def test_the_whole_way(data, tmp_path, run, capsys):
    """All tasks of the smallest size; the same command finds them finished; one row made elsewhere is the same."""
    pytest.importorskip("onnxruntime")
    known = ["--size", "smoke", "--data", data]
    assert run(main, *known, "--out", tmp_path / "out", "--publish", tmp_path / "docs") == 0
    results = json.loads((tmp_path / "docs/ablation/results.json").read_text())
    assert list(results["rows"]) == [
        *("full", "no_pretrain", "head_discrete", "head_mse", "without_minilm"),
        *("full/num_iterations=1", "full/order=confidence"),
    ]
    for row in results["rows"].values():
        assert set(row) == {"fd_yamnet", "kl", "inception_score", "accuracy", "text_relevance", "latency", "memory"}
        assert set(row["fd_yamnet"]) == set(row["kl"]) == {"0", "1"}
        assert all(seconds > 0 for seconds in row["latency"].values())
    assert set(results["reference"]) == {"real", "codec", "noise"}
    assert "| `head_mse` |" in (tmp_path / "docs/ablation.md").read_text()

    capsys.readouterr()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.flac")}
    assert run(main, *known, "--out", tmp_path / "out") == 0
    assert "finished before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.flac")} == written

    against = ["--against", tmp_path / "docs/ablation/results.json"]
    assert run(main, *known, "--out", tmp_path / "again", "--only", "head_mse", "--seed", "1", *against) == 0
    theirs = results["rows"]["head_mse"]["fd_yamnet"]["1"]
    assert f"seed 1 {theirs:.6g} (there {theirs:.6g})" in capsys.readouterr().out
