"""A model's folder: saved and loaded, refused where it does not fit, in half precision, found by name."""

import json

import pytest
import torch
from safetensors.torch import load_file

from impact_pl import checkpoint_io
from impact_pl.config import MaskRatioConfig, ModelConfig
from impact_pl.inference.generate import generate
from impact_pl.models import spec
from impact_pl.models.impact import Impact
from impact_pl.models.spec import ImpactSpec
from tests.helpers.models import QUICK, build, captions, rng


def model() -> Impact:
    torch.manual_seed(0)
    config = ModelConfig(dim=16, depth=1, num_heads=2, head_width=16, head_depth=1, max_patches=8)
    return Impact(ImpactSpec(config, latent_channels=4, latent_width=1, latent_mean=[0.0] * 4, latent_std=1.0))


def test_save_and_load(tmp_path):
    model = build(mask_ratio=MaskRatioConfig(kind="fixed", value=0.6))
    model.save_pretrained(tmp_path / "model")
    loaded = Impact.from_pretrained(tmp_path / "model")
    assert loaded.spec == model.spec
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    assert torch.equal(*(generate(m, captions(), 12, 2, QUICK, rng()) for m in (model, loaded)))


def test_folders_that_do_not_load(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such model folder"):
        Impact.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no config\.json"):
        Impact.from_pretrained(tmp_path)
    model = build()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ValueError, match=r"key 'format': .* got 99"):
        Impact.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "latent_channels": 5, "latent_mean": [0.0] * 5}))
    with pytest.raises(ValueError, match="does not fit"):
        Impact.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="key 'model' is missing"):
        Impact.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "surprise": 1}))
    with pytest.raises(ValueError, match="surprise"):
        Impact.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"not weights" * 10_000)
    with pytest.raises(ValueError, match="is damaged, or not of this folder"):
        Impact.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        Impact.from_pretrained(tmp_path)


def test_half_precision_is_half_the_bytes_and_loads_the_same_each_time(tmp_path):
    whole = model()
    whole.save_pretrained(tmp_path / "whole")
    whole.save_pretrained(tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    first, second = (Impact.from_pretrained(tmp_path / "half").state_dict() for _ in range(2))
    for name, value in whole.state_dict().items():
        assert first[name].dtype == torch.float32
        assert torch.equal(first[name], value.half().float())
        assert torch.equal(first[name], second[name])


def test_a_weight_beyond_float16_makes_it_bfloat16(tmp_path):
    large = model()
    with torch.no_grad():
        large.encoder.patch_proj.weight[0, 0] = 1e5
    large.save_pretrained(tmp_path, half=True)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    loaded = Impact.from_pretrained(tmp_path).encoder.patch_proj.weight[0, 0]
    assert loaded == torch.tensor(1e5).bfloat16().float()


def test_whole_numbers_stay_whole():
    halved = checkpoint_io.halved({"weight": torch.ones(2), "count": torch.tensor(70_001)})
    assert halved["count"] == 70_001
    assert halved["weight"].dtype == torch.float16


def test_the_built_in_model_is_found_by_name_and_its_absence_said(tmp_path, monkeypatch):
    monkeypatch.setattr(spec, "BUILTIN_FOLDER", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"no built-in model \(.* lacks model\.safetensors\): name the folder of anoth"
    ):
        spec.find_model("builtin")
    (tmp_path / "model.safetensors").touch()
    assert spec.find_model("builtin") == tmp_path
    assert spec.find_model(tmp_path / "other") == tmp_path / "other"
