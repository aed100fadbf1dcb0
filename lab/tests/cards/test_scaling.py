"""The arithmetic of docs/scaling.md against real models, and the document against the command that made its tables."""

import dataclasses
from pathlib import Path

import pytest
import torch

from impact_pl.config import MaskRatioConfig, ModelConfig, OptimConfig
from impact_pl.models.impact import Impact
from impact_pl.models.spec import ImpactSpec
from impact_pl.training.optim import ExponentialMovingAverage, build_optimizer
from lab.cards import scaling
from lab.cards import scaling_table as command

DOCUMENT = Path(__file__).parents[3] / "docs" / "scaling.md"
MODEL = ModelConfig(dim=32, depth=3, num_heads=2, head_width=24, head_depth=2, dropout=0.1, max_patches=16)
SPEC = ImpactSpec(MODEL, 4, 1, [0.0] * 4, 1.0, text_features={"minilm": (6, 8)})


@pytest.mark.parametrize(("name", "millions"), [("base", 193), ("large", 427), ("3b", 3012)])
def test_parameters_are_counted_without_weights(name, millions):
    sizes = scaling.count_parameters(command.spec_of(name))
    assert round(sizes.total / 1e6) == millions
    depth, head = command.spec_of(name).model.depth, command.spec_of(name).model.head_depth
    width = command.spec_of(name).model.head_width
    head_block = 5 * width * width + 7 * width  # two layers, the modulation's three, and a norm
    assert sizes.total == 2 * depth * sizes.block + head * head_block + sizes.rest


def test_one_rank_holds_what_its_tensors_take():
    """Weights, gradients, AdamW's moments and the average of a real model after a real step."""
    model = Impact(SPEC)
    average = ExponentialMovingAverage(model, 0.9)
    optimizer = build_optimizer(model, OptimConfig())
    model(torch.zeros(2, 4, 16, 1), None, torch.Generator().manual_seed(0)).loss.backward()
    optimizer.step()
    parameters = list(model.parameters())
    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    held = {
        "weights": parameters,
        "gradients": [p.grad if p.grad is not None else p for p in parameters],  # text was not given: its grads come
        "optimizer": moments,
        "average": list(average.model.parameters()),
    }
    counted = scaling.memory(scaling.count_parameters(SPEC), "ddp", 1)
    for kind, tensors in held.items():
        unused = sum(p.nbytes for p in parameters if p.grad is None) * 2 if kind == "optimizer" else 0
        assert sum(tensor.nbytes for tensor in tensors) + unused == counted[kind], kind


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "fsdp2"])
def test_sharding_saves_more_on_more_ranks(strategy):
    sizes = scaling.count_parameters(SPEC)
    totals = [sum(scaling.memory(sizes, strategy, ranks).values()) for ranks in (2, 4, 8)]
    assert totals[0] > totals[1] > totals[2]


def test_an_all_reduce_is_a_scatter_and_a_gather():
    sizes = scaling.Sizes(total=1000, block=100, rest=200)
    assert scaling.sent(sizes, "ddp", 1) == 0
    assert scaling.sent(sizes, "ddp", 4) == 2 * 3 / 4 * 4000
    assert scaling.sent(sizes, "fsdp2", 4) == 3 * 3 / 4 * 4000


def test_activations_continue_to_any_depth():
    """Measured on one and two blocks, continued to three: what three blocks really keep."""
    kept = scaling.activations(SPEC, 16, "32-true")
    measured = {
        batch: max(
            scaling._saved_bytes(
                scaling._with(SPEC, mask_ratio=MaskRatioConfig("fixed", value=q)), batch, 16, "32-true"
            )
            for q in scaling.MASK_RATIOS
        )
        for batch in (1, 3)
    }
    assert kept.clip == pytest.approx((measured[3] - measured[1]) / 2, rel=0.01)
    assert kept.once == pytest.approx(measured[1] - kept.clip, abs=0.02 * measured[1])


def test_the_tables_of_the_document_are_the_commands():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert command.state_table(["base", "large", "3b"], [1, 8, 64]) in text


@pytest.mark.slow
def test_the_activations_of_the_document_are_the_commands():
    assert command.activation_table(["base"], ["32-true"]).splitlines()[-1] in DOCUMENT.read_text(encoding="utf-8")


def test_command_prints_its_tables(capsys):
    command.main(["--models", "tiny", "--ranks", "2", "--activations", "32-true"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in lines if line.startswith("| tiny,")] == list(scaling.STRATEGIES)
    assert lines[-1].startswith("| tiny | 32-true | ")


def test_sizes_depend_on_the_text_condition():
    without = dataclasses.replace(SPEC, text_features={})
    assert scaling.count_parameters(without).total < scaling.count_parameters(SPEC).total
