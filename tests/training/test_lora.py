"""Adapters: trained, resumed, merged and loaded like a model, in files that peft reads."""

import dataclasses

import pytest
import torch

from impact_pl.inference.generate import generate
from impact_pl.models.adapters import apply_adapter, merged_weights, save_adapter
from impact_pl.models.impact import Impact
from impact_pl.models.spec import find_model
from impact_pl.training.best import ADAPTER, KeepBest
from impact_pl.training.checkpoint import load_averaged
from impact_pl.training.fit import train
from impact_pl.training.lora import add_adapters, plain_model
from tests.helpers.models import QUICK, build, captions, rng

peft = pytest.importorskip("peft", reason="extra 'tune' is not installed")
from impact_pl.config import LoraConfig  # noqa: E402

LORA = LoraConfig(rank=2, alpha=3.0)


@pytest.fixture
def adapted() -> Impact:
    model = build()
    add_adapters(model, LORA)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3, generator=rng())
    return model.eval()


def sound(model: Impact, engine: str) -> torch.Tensor:
    decoding = dataclasses.replace(QUICK, engine=engine)
    return generate(model, captions(), 12, 2, decoding, rng())


def test_merged_and_unmerged_adapters_give_the_same_sound(adapted, tmp_path):
    own = sound(adapted, "reference")
    plain = plain_model(adapted, LORA)
    torch.testing.assert_close(sound(plain, "reference"), own, rtol=0, atol=1e-4 * own.abs().max().item())
    save_adapter(adapted.state_dict(), tmp_path, LORA.rank, LORA.alpha, LORA.targets)
    loaded = build()
    before = {name: weight.clone() for name, weight in loaded.state_dict().items()}
    assert not torch.allclose(sound(loaded, "fused"), own, rtol=0, atol=1e-2 * own.abs().max().item())
    apply_adapter(loaded, tmp_path)
    torch.testing.assert_close(sound(loaded, "fused"), own, rtol=0, atol=1e-4 * own.abs().max().item())
    apply_adapter(loaded, tmp_path, -0.4)
    apply_adapter(loaded, tmp_path, -0.6)  # strengths add up
    for name, weight in loaded.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=1e-5)


def test_the_file_is_small_and_peft_reads_it(adapted, tmp_path):
    save_adapter(adapted.state_dict(), tmp_path, LORA.rank, LORA.alpha, LORA.targets)
    config = peft.PeftConfig.from_pretrained(tmp_path)
    assert (config.r, config.lora_alpha, set(config.target_modules)) == (2, 3.0, set(LORA.targets))
    model = build()
    peft.inject_adapter_in_model(config, model)
    peft.set_peft_model_state_dict(model, peft.utils.load_peft_weights(str(tmp_path), device="cpu"))
    for name, weight in adapted.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight)


def test_a_foreign_adapter_names_the_layer(adapted, tmp_path):
    save_adapter(adapted.state_dict(), tmp_path, LORA.rank, LORA.alpha, LORA.targets)
    with pytest.raises(
        ValueError, match=r"layer encoder\.enc1\.blocks\.0\.attn\.(qkv|proj) of shape \(\d+, 32\) does not fit"
    ):
        apply_adapter(Impact.from_pretrained(find_model("builtin")), tmp_path)
    weights = adapted.state_dict().items()
    factors = {name: weight[:, :1] if ".lora_B." in name else weight for name, weight in weights}
    save_adapter(factors, tmp_path, LORA.rank, LORA.alpha, LORA.targets)
    with pytest.raises(ValueError, match="which do not belong together: save the adapter again"):
        apply_adapter(build(), tmp_path)
    with pytest.raises(ValueError, match="has no adapter_config"):
        apply_adapter(adapted, tmp_path / "nowhere")


def test_only_adapters_are_trained_and_a_resumed_training_is_the_same(config, tmp_path):
    config.name, config.trainer.max_steps = "base", 2
    base = train(config).model
    config.init_from, config.lora, config.trainer.max_steps = str(base), LORA, 6
    config.name = "whole"
    whole = load_averaged(train(config).model)
    config.name, config.trainer.max_steps = "parts", 3
    config.optim.decay_steps = 0
    train(config)
    config.trainer.max_steps = 6
    best = KeepBest(tmp_path / "best", patience=9)
    parts = load_averaged(train(config, [best]).model)
    start = load_averaged(base)
    for (name, weight), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=0)
        is_changed = not torch.equal(weight, start.state_dict()[name])
        assert is_changed == any(f".{target}.weight" in name for target in LORA.targets), name
    kept = Impact.from_pretrained(tmp_path / "best")
    apply_adapter(start, tmp_path / "best" / ADAPTER)
    for weight, other in zip(kept.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-6)
    config.lora = LoraConfig(rank=4)
    with pytest.raises(ValueError, match=r"holds another training: lora.rank 2 -> 4"):
        train(config)


def test_settings_that_cannot_work_are_told(config):
    config.lora = LORA
    with pytest.raises(ValueError, match=r"lora\.rank=2: adapters are trained next to the weights of a trained model"):
        train(config)
    with pytest.raises(ValueError, match=r"lora\.targets=\['wv'\]: choose among the linear layers .*fc1"):
        add_adapters(build(), LoraConfig(rank=2, targets=["wv"]))


def test_merging_needs_no_package():
    weights = {"a.base_layer.weight": torch.eye(2), "a.base_layer.bias": torch.zeros(2), "b.weight": torch.ones(1)}
    factors = {"a.lora_A.default.weight": torch.tensor([[1.0, 0.0]]), "a.lora_B.default.weight": torch.ones(2, 1)}
    merged = merged_weights(weights | factors, 0.5)
    assert merged.keys() == {"a.weight", "a.bias", "b.weight"}
    assert merged["a.weight"].tolist() == [[1.5, 0.0], [0.5, 1.0]]
