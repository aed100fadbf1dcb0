import pytest
import torch

from impact_pl.config import ModelConfig, OptimConfig
from impact_pl.models.impact import Impact
from impact_pl.models.spec import ImpactSpec
from impact_pl.training.optim import build_optimizer, build_schedule, set_hyperparameters


@pytest.fixture
def model() -> Impact:
    config = ModelConfig(dim=16, depth=1, num_heads=2, max_patches=8, head_width=16, head_depth=1)
    return Impact(ImpactSpec(config, 4, 1, [0.0] * 4, 1.0, {"minilm": (6, 8)}))


def test_biases_norms_and_the_head_are_not_decayed(model):
    decayed, plain = build_optimizer(model, OptimConfig(weight_decay=0.02)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.02, 0.0)
    kinds = {id(p): group["weight_decay"] for group in (decayed, plain) for p in group["params"]}
    names = dict(model.named_parameters())
    assert len(kinds) == len(names)
    for name in ("encoder.enc1.blocks.0.attn.qkv.weight", "encoder.patch_proj.weight", "text_proj.minilm.weight"):
        assert kinds[id(names[name])] == 0.02
    exempt = ("encoder.enc1.blocks.0.attn.qkv.bias", "encoder.enc1.norm.weight", "head.input_proj.weight")
    assert all(kinds[id(names[name])] == 0.0 for name in exempt)


@pytest.mark.parametrize(("decay_steps", "last"), [(0, [1.0, 1.0, 1.0]), (3, [1.0, 2 / 3, 1 / 3])])
def test_learning_rate_rises_linearly_and_stays_or_falls(model, decay_steps, last):
    optimizer = build_optimizer(model, OptimConfig(lr=1.0))
    schedule = build_schedule(optimizer, OptimConfig(warmup_steps=4, decay_steps=decay_steps), max_steps=7)
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [0.25, 0.5, 0.75, 1.0, *last]


def test_present_configuration_wins_over_a_checkpoint(model):
    optimizer = build_optimizer(model, OptimConfig(lr=1.0))
    schedule = build_schedule(optimizer, OptimConfig(warmup_steps=4), 10)
    checkpoint = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [schedule.state_dict()]}
    new = OptimConfig(lr=0.1, weight_decay=0.5, warmup_steps=2)
    set_hyperparameters(checkpoint, new, 10)
    optimizer = build_optimizer(model, new)
    schedule = build_schedule(optimizer, new, 10)
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    schedule.load_state_dict(checkpoint["lr_schedulers"][0])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    assert torch.optim.AdamW is type(optimizer)
