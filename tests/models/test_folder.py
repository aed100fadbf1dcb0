"""Where a model's folder is, and its weights in half precision."""

import pytest
import torch
from safetensors.torch import load_file

from impact_pl.config import ModelConfig
from impact_pl.models import folder
from impact_pl.models.impact import Impact
from impact_pl.models.spec import ImpactSpec


def model() -> Impact:
    torch.manual_seed(0)
    config = ModelConfig(dim=16, depth=1, num_heads=2, head_width=16, head_depth=1, max_patches=8)
    return Impact(ImpactSpec(config, latent_channels=4, latent_width=1, latent_mean=[0.0] * 4, latent_std=1.0))


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
    halved = folder.halved({"weight": torch.ones(2), "count": torch.tensor(70_001)})
    assert halved["count"] == 70_001
    assert halved["weight"].dtype == torch.float16


def test_the_built_in_model_is_found_by_name_and_its_absence_said(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "BUILTIN_FOLDER", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"no built-in model \(.* lacks model\.safetensors\): name the folder of anoth"
    ):
        folder.find_model("builtin")
    (tmp_path / "model.safetensors").touch()
    assert folder.find_model("builtin") == tmp_path
    assert folder.find_model(tmp_path / "other") == tmp_path / "other"
