"""Adapters written by others: what does not fit is refused in one line, before the model is changed."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from impact_pl.errors import UserError
from impact_pl.models.adapters import FILES, PREFIX, apply_adapter
from tests.helpers.models import build

LAYER = "encoder.patch_proj"
CONFIG = {"r": 2, "lora_alpha": 4}


def factors(dtype=torch.float32):
    rows, columns = dict(build().named_parameters())[f"{LAYER}.weight"].shape
    named = {"lora_A": torch.full((2, columns), 0.5), "lora_B": torch.full((rows, 2), 0.25)}
    return {f"{PREFIX}{LAYER}.{name}.weight": value.to(dtype) for name, value in named.items()}


def write(folder, config, content):
    folder.joinpath(FILES[0]).write_text(config if isinstance(config, str) else json.dumps(CONFIG | config))
    if isinstance(content, bytes):
        folder.joinpath(FILES[1]).write_bytes(content)
    else:
        save_file(content, folder / FILES[1])
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_factors_of_any_precision_are_added(tmp_path, dtype):
    model = build()
    weight = dict(model.named_parameters())[f"{LAYER}.weight"]
    before, mixed = weight.detach().clone(), factors(dtype)
    mixed[f"{PREFIX}{LAYER}.lora_B.weight"] = mixed[f"{PREFIX}{LAYER}.lora_B.weight"].float()
    for content in (factors(dtype), mixed):
        apply_adapter(model, write(tmp_path, {"rank_pattern": {}, "use_dora": False}, content))
    torch.testing.assert_close(weight.detach() - before, torch.full_like(before, 2 * 2 * 2 * 0.5 * 0.25))


class Touch:
    """Would create a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def half_of(content):
    return dict([*content.items()][:1])


DAMAGED = {
    "huge rank": ({"r": 10**400}, factors, "key 'r'"),
    "other rank": ({"r": 3}, factors, "at rank 3, which do not belong together"),
    "overflow": ({"lora_alpha": 1e308}, factors, "becomes infinite at strength 1"),
    "infinite": ("{" + '"r": 2, "lora_alpha": 1e999' + "}", factors, "should be a finite number"),
    "nested": ("[" * 100_000, factors, "not JSON"),
    "dora": ({"use_dora": True}, factors, "use_dora in adapter_config.json is not supported"),
    "alphas": ({"alpha_pattern": {"x": 3}}, factors, "alpha_pattern in adapter_config.json is not supported"),
    "nothing": ({}, lambda: {"x": torch.ones(1)}, "0 of 1 tensors are pairs"),
    "half a pair": ({}, lambda: half_of(factors()), "0 of 1 tensors are pairs"),
    "more": ({}, lambda: factors() | {"x": torch.ones(1)}, "2 of 3 tensors are pairs"),
    "integers": ({}, lambda: factors(torch.int8), "factors of torch.int8"),
    "nan": ({}, lambda: {name: value * float("nan") for name, value in factors().items()}, "becomes infinite"),
    "empty": ({}, lambda: b"", "not a safetensors file"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_adapter_leaves_the_model_as_it_was(tmp_path, name):
    config, content, message = DAMAGED[name]
    model = build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        apply_adapter(model, write(tmp_path, config, content()))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_nothing_is_unpickled(tmp_path):
    trap = tmp_path / "trap"
    with pytest.raises(UserError, match="not a safetensors file"):
        apply_adapter(build(), write(tmp_path, {}, pickle.dumps(Touch(trap))))
    assert not trap.exists()
