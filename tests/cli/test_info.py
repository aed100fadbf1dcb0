"""impact info: what a model folder is."""

import json
import shutil

import pytest

from impact_pl.cli import info


def test_a_trained_model(trained, capsys):
    info.main([str(trained / "text" / "model"), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["codec"].startswith("builtin (")
    assert facts["text_encoder"].startswith("minilm (")
    assert facts["max_duration"].startswith("1.28 s")
    assert "num_iterations=" in facts["decoding"]
    assert "M (F32), " in facts["parameters"]
    assert facts["checksum"].endswith("of the weights is that in config.json")
    info.main([str(trained / "pretrain" / "model")])
    assert "none: an unconditional model" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"\xff" * 16, b"\x02\0\0\0\0\0\0\0[]"])
def test_what_is_no_model(trained, tmp_path, run, capsys, content):
    assert run(info.main, tmp_path) == 2
    assert "has no config.json" in capsys.readouterr().err
    (tmp_path / "config.json").write_bytes((trained / "text" / "model" / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(content)
    assert run(info.main, tmp_path) == 2
    assert f"ask for 2.46e+04 numbers, but model.safetensors has {len(content)} bytes" in capsys.readouterr().err
    (tmp_path / "model.safetensors").write_bytes(content + bytes(1_000_000))
    assert run(info.main, tmp_path) == 2
    assert "not a safetensors file" in capsys.readouterr().err


def test_damaged_weights_are_told(trained, tmp_path, run, capsys):
    shutil.copytree(trained / "text" / "model", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    assert run(info.main, tmp_path / "model") == 2
    assert "model.safetensors is damaged, or not of this folder: its SHA-256" in capsys.readouterr().err
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"weights_sha256": None}))
    assert run(info.main, tmp_path / "model") == 0
    assert "none in config.json: the weights cannot be checked" in capsys.readouterr().out
