"""What has an export, what has none, and that models unlike the shipped one are exported correctly."""

import json

import pytest
import torch

from impact_pl.cli import export as command
from impact_pl.config import ModelConfig
from impact_pl.errors import UserError
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.models.impact import Impact
from impact_pl.portable.page import RUNTIME_FILES, check_runtime

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
from impact_pl.portable.check import TOLERANCE, check_errors
from impact_pl.portable.export import check_exportable, export

TINY = {"dim": 32, "depth": 1, "num_heads": 2, "dropout": 0.0, "max_patches": 16, "head_width": 32, "head_depth": 1}


@pytest.fixture(scope="module")
def shipped():
    return ImpactPipeline.from_pretrained(device="cpu")


def with_model(pipeline: ImpactPipeline, num_frames: int = 16, decoding: dict | None = None, **config):
    """The shipped pipeline with a small model of random weights instead."""
    torch.manual_seed(0)
    spec = type(pipeline.model.spec)(**vars(pipeline.model.spec))
    spec.model, spec.num_frames = ModelConfig(**(TINY | config)), num_frames
    spec.decoding = decoding or {}
    return ImpactPipeline(Impact(spec).eval(), pipeline.codec, pipeline.text_encoder)


@pytest.mark.slow
@pytest.mark.parametrize("config", [{"text_padding": 4}, {"pooled_text": True, "prediction": "velocity"}])
def test_other_models_are_equal_to_pytorch(shipped, tmp_path, config):
    errors = export(with_model(shipped, **config), tmp_path / "out")
    assert max(errors.values()) <= TOLERANCE


@pytest.mark.slow
def test_half_is_smaller_and_says_so(run, tmp_path, capsys):
    assert run(command.main, "builtin", tmp_path / "half", "--onnx", "--half") == 0
    assert 70e6 < sum(file.stat().st_size for file in (tmp_path / "half").iterdir()) < 80e6
    assert "text           largest error against PyTorch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"head": "mse"}, "head 'mse' has no ONNX export"),
        ({"decoding": {"solver": "ddim"}}, "solver = ddim"),
        ({"decoding": {"order": "confidence"}}, "order = confidence"),
    ],
)
def test_models_without_an_export_are_refused(shipped, config, message):
    with pytest.raises(UserError, match=message):
        check_exportable(with_model(shipped, **config))


def test_an_error_above_the_bound_fails():
    check_errors({"text": 2e-3, "head": 1e-5}, half=True)
    with pytest.raises(RuntimeError, match="graph text differs"):
        check_errors({"text": 1e-2}, half=False)
    with pytest.raises(RuntimeError, match="graph head differs"):
        check_errors({"head": float("nan")}, half=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--onnx", "--web"], "not allowed with"),
        (["--web"], "--onnxruntime-web belong together"),
        (["--onnx", "--hub"], "--force and --hub"),
        (["--onnx"], "exists already"),
        (["--web", "--onnxruntime-web", "."], "exists already"),
    ],
)
def test_mistakes_of_the_command_are_one_line(run, tmp_path, capsys, arguments, message):
    assert run(command.main, "builtin", tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_runtime_must_be_the_right_one(tmp_path):
    with pytest.raises(UserError, match=r"has no package.json.*npm pack"):
        check_runtime(tmp_path)
    (tmp_path / "dist").mkdir()
    for name in RUNTIME_FILES:
        (tmp_path / "dist" / name).touch()
    (tmp_path / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": "1.2.3"}))
    with pytest.raises(UserError, match=r"onnxruntime-web 1.2.3, but the page needs"):
        check_runtime(tmp_path)
