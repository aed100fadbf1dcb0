"""Steps of the reference's kind and ours train the same model, and differ in what they keep and how they count."""

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from impact_pl.config import MaskRatioConfig, ModelConfig
from impact_pl.sampling.masking import draw_mask_ratio
from lab.benchmark import training
from lab.benchmark.subject import named

CONFIG = ModelConfig(dim=32, depth=2, num_heads=2, head_width=32, head_depth=1, max_patches=16, dropout=0.0)
RATES = {"32-true": 1e11, "bf16": 2e11}


@pytest.fixture(scope="module")
def stepper():
    subject = named("little", CONFIG, duration=0.64, device=torch.device("cpu"), parts=False)
    return training.Stepper(subject, 4, 16)


def test_the_mean_mask_ratio():
    config = MaskRatioConfig()
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_mask_ratio(config, generator) for _ in range(4000)]
    assert training.mean_mask_ratio(config) == pytest.approx(sum(drawn) / len(drawn), abs=3e-3)
    assert training.mean_mask_ratio(MaskRatioConfig(kind="fixed", value=0.5)) == 0.5


def test_the_loss_at_all_positions_is_the_loss_at_masked_ones_on_average(stepper):
    """The same expectation: noise and masks differ, the mean over many draws does not."""
    masked = dataclasses.replace(training.REFERENCE, attention_dropout=0.0, masked_only=True)
    everywhere = dataclasses.replace(masked, masked_only=False)
    with torch.no_grad():
        means = [torch.stack([stepper.loss(each) for _ in range(40)]) for each in (masked, everywhere)]
    error = (means[0].var() / 40 + means[1].var() / 40).sqrt()
    assert abs(means[0].mean() - means[1].mean()) < 4 * error


def test_text_is_packed_or_whole(monkeypatch):
    """The whole one as the reference computes it: without a mask, which would ask for another kernel."""
    subject = named("little", dataclasses.replace(CONFIG, text_padding=3), 0.64, torch.device("cpu"), parts=False)
    masked, seen = training.Stepper(subject, 4, 16), []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(q, k, v, attn_mask=None, dropout_p=0.0):
        seen.append((k.shape[2], attn_mask is not None))
        return attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p)

    for block in masked.blocks:
        monkeypatch.setattr(block.attn, "scaled_dot_product_attention", watched)
    variants = {name: training.VARIANTS[name] for name in ("ours in float32", "the reference's step")}
    variants["whole"] = dataclasses.replace(variants["ours in float32"], packed_text=False)
    lengths = {}
    for name, variant in variants.items():
        seen.clear()
        masked.loss(variant)
        lengths[name] = seen[-1]
    assert lengths == {"the reference's step": (48, False), "whole": (48, False), "ours in float32": (37, True)}


def test_rows_and_what_variants_keep(stepper):
    before = [p.clone() for p in stepper.model.parameters()]
    uncompiled = {name: variant for name, variant in training.VARIANTS.items() if not variant.compile}
    rows = {row["variant"]: row for row in training.measure(stepper, uncompiled, RATES, 1)}
    assert any(not torch.equal(a, b) for a, b in zip(before, stepper.model.parameters(), strict=True))
    for row in rows.values():
        assert row["clips_per_second"] == pytest.approx(4 / row["seconds"])
        assert row["utilisation"] == pytest.approx(row["flops"] / row["seconds"] / RATES[row["precision"]])
        assert row["peak_bytes"] is None  # of a CPU
    kept = {name: row["kept_bytes"] for name, row in rows.items()}
    ours = kept["ours: all that, quick dropout and fused AdamW"]
    assert kept["ours, activation checkpointing"] < ours < kept["ours, head at all positions"]
    assert ours < kept["ours in float32"]


@pytest.mark.parametrize("computes", [True, False])
def test_no_variant_is_timed_in_a_precision_that_is_only_emulated(monkeypatch, computes):
    monkeypatch.setattr("impact_pl.precision.cpu_computes_bf16", lambda: computes)
    device = torch.device("cpu")
    variants = training.default_variants(device, packs=True)
    assert {variant.precision for variant in variants.values()} == ({"32-true", "bf16"} if computes else {"32-true"})
    assert {"the reference's step", "ours in float32"} <= set(variants)
    told = set(variants) - set(training.default_variants(device, packs=False))  # by packing alone
    packing_alone = {"bf16, no attention dropout, masked-only head, packed text", "ours, all text positions"}
    assert told == (packing_alone if computes else set())


def test_dropouts_differ_on_a_cpu_alone(monkeypatch):
    monkeypatch.setattr(training, "resolve", lambda name, device: "bf16")
    cpu, cuda = (set(training.default_variants(torch.device(name), packs=True)) for name in ("cpu", "cuda"))
    assert cpu - cuda == {"ours, PyTorch's dropout"}
    assert cuda < cpu


@pytest.mark.parametrize("name", ["ours, activation checkpointing", "the reference's step"])
def test_layouts_leave_no_trace(stepper, name):
    stepper.kept_bytes(training.VARIANTS[name])
    assert [block.forward for block in stepper.blocks] == stepper.plain_forwards
    assert stepper.dropouts
    assert not any("forward" in vars(dropout) for dropout in stepper.dropouts)


@pytest.mark.parametrize(("name", "draws"), [("the reference's step", 0), ("ours in float32", 12)])
def test_a_variant_has_its_dropout(monkeypatch, name, draws):
    subject = named("little", dataclasses.replace(CONFIG, dropout=0.1), 0.64, torch.device("cpu"), parts=False)
    stepper, drawn = training.Stepper(subject, 4, 16), []
    random_ = torch.Tensor.random_
    monkeypatch.setattr(torch.Tensor, "random_", lambda x, *span: drawn.append(x.shape) or random_(x, *span))
    stepper.step(training.VARIANTS[name])
    assert len(drawn) == draws  # three a block, four blocks


def test_flops_are_three_times_the_forward_pass(stepper):
    """Counted while a step runs; the first layers need no gradient of their input."""
    variant = dataclasses.replace(training.OURS, precision="32-true")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        stepper.loss(variant)
    assert 0.9 < stepper.flops() / (3 * counter.get_total_flops()) <= 1
