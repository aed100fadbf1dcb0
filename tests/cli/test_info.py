"""impact info: what a model folder is."""

import json

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
