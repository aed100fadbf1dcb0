"""Counted work is what a model does, and bounds are what a machine allows."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from impact_pl.config import DecodingConfig, ModelConfig
from impact_pl.inference.reuse import ReusingEncoder
from impact_pl.models.condition import Condition
from impact_pl.models.heads.base import Sampling
from impact_pl.models.impact import Impact
from impact_pl.models.spec import ImpactSpec
from impact_pl.sampling.masking import masked_counts
from lab.benchmark import work
from lab.benchmark.machine import Rates
from lab.benchmark.work import Iteration

RATES = Rates({"32-true": 1e9, "bf16": 4e9}, {}, {1 << 20: 4e9, 1 << 26: 1e9}, 1e-6)
CONFIG = ModelConfig(dim=16, depth=2, num_heads=2, head_width=24, head_depth=2, max_patches=12, dropout=0.0)
SIX = DecodingConfig(num_iterations=6, num_diffusion_steps=4)
SPEC = ImpactSpec(CONFIG, 4, 1, [0.0] * 4, 1.0, text_features={"words": (3, 5)})


def counted(call) -> int:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Impact(SPEC).eval()


def test_a_linear_layer_by_hand():
    assert work.linear(3, 5, 7) == 3 * 7 * (5 + 5)  # five products and five additions for each of 3 x 7 results
    assert work.linear(3, 5, 7) == counted(lambda: nn.Linear(5, 7)(torch.zeros(3, 5)))


@pytest.mark.parametrize("kept", [0, 5, 11])
def test_the_encoder_as_it_runs(model, kept):
    """At all positions: exactly what the plain encoder does. At some: what the last block has less."""
    mask = torch.arange(12)[None] >= kept
    cond = Condition(torch.zeros(1, 3, 16))
    whole = work.encoder_flops(SPEC, 12, kept)
    assert whole == counted(lambda: model.encoder(torch.zeros(1, 12, 4), mask, cond))
    fewer = work.block(CONFIG, 15) - work.block(CONFIG, 15, queries=2)
    assert whole - work.encoder_flops(SPEC, 12, kept, revealed=2) == fewer > 0


def test_weights_are_those_of_the_model(model):
    matrices = sum(p.numel() for name, p in model.encoder.named_parameters() if p.ndim == 2 and "weight" in name)
    assert work.encoder_weights(SPEC) == matrices
    loop, modulation = work.head_sizes(SPEC)
    once = sum(
        layer.weight.numel() for layer in (model.head.cond_proj, *model.head.time_embed) if hasattr(layer, "weight")
    )
    assert loop + modulation + once == sum(p.numel() for p in model.head.parameters() if p.ndim == 2)


def test_the_head_as_it_runs(model):
    """The plain head embeds the timestep in each step, for each row or for all: the steps' own part is the same."""
    hidden = torch.zeros(2, 3, 16)

    def sample(steps: int) -> int:
        return counted(lambda: model.head.sample(hidden, hidden, Sampling(2.0, steps), torch.Generator()))

    loop, modulation = work.head_sizes(SPEC)
    done = sample(2) - sample(1)
    assert work.head_flops(SPEC, 12, 2) - work.head_flops(SPEC, 12, 1) <= done
    assert done >= 2 * 12 * (loop + modulation)


def test_iterations_are_those_of_decoding():
    config = DecodingConfig(num_iterations=5, num_diffusion_steps=7)
    plan = work.iterations_of(config, 12)
    left = masked_counts(12, 5)
    assert [it.kept for it in plan] == [0, *(12 - count for count in left[:-1])]
    assert sum(it.revealed for it in plan) == 12
    assert [it.guided for it in plan] == [True] * 4 + [False]  # the paper's guidance falls to 1
    assert {it.num_diffusion_steps for it in plan} == {7}
    with pytest.raises(ValueError, match="random"):
        work.iterations_of(dataclasses.replace(config, order="confidence"), 12)


def test_a_bound_is_the_slower_of_arithmetic_and_memory():
    busy, hungry = work.Work(flops=2e9, bytes=1e6, working_set=2e6), work.Work(flops=1e6, bytes=8e9, working_set=1e9)
    parts = work.total([busy, hungry], RATES, "32-true")
    assert parts.bound == pytest.approx(2.0 + 8.0)
    assert (parts.compute, parts.memory) == (pytest.approx(2.001), pytest.approx(8.00025))
    assert work.total([busy], RATES, "bf16").bound == pytest.approx(0.5)


def test_small_working_sets_are_read_from_the_cache():
    assert RATES.bandwidth_of(1e5) == RATES.bandwidth_of(2e6) == 4e9
    assert RATES.bandwidth_of(1e9) == 1e9


def test_guidance_doubles_arithmetic_and_reads_weights_once():
    plan = [Iteration(0, 6, 2.0, 10), Iteration(6, 6, 1.0, 10)]
    parts = work.generation(SPEC, RATES, DecodingConfig(), 2, 12, plan)
    alone = 2 * work.encoder_flops(SPEC, 12, 0, 6)
    assert parts["encoder, guidance"].flops == alone
    assert parts["encoder"].flops == alone + 2 * work.encoder_flops(SPEC, 12, 6, 6)
    assert parts["encoder, guidance"].bytes == 0
    assert parts["head"].flops > parts["head, guidance"].flops > 0


def test_text_is_counted_where_it_is():
    """Of 41 positions a caption has 15 and padding, the null condition padding alone: guidance's halves differ."""
    padded = dataclasses.replace(CONFIG, text_padding=2)
    spec = dataclasses.replace(SPEC, model=padded, text_features={"clap": (1, 5), "words": (40, 5)})
    assert work.text_positions(spec) == (17, 2)
    for padding in (99, -1):
        other = dataclasses.replace(spec, model=dataclasses.replace(CONFIG, text_padding=padding))
        assert work.text_positions(other) == (41, 41)
    assert work.text_positions(dataclasses.replace(spec, text_features={})) == (0, 0)
    for new in (None, 2):
        alone, both = (
            work.encoder_work(spec, "32-true", 2, 12, Iteration(3, 4, scale, 10), new).flops for scale in (1.0, 2.0)
        )
        text, null = (
            work.encoder_flops(spec, 12, 3, 4, num) if new is None else work.reused_flops(spec, 12, 3, 4, new, num)
            for num in (17, 2)
        )
        assert (alone, both) == (2 * text, 2 * (text + null))
    model, mask = Impact(spec).eval(), torch.arange(12)[None] >= 3
    cond = Condition(torch.zeros(1, 17, 16), torch.arange(17)[None])
    assert work.encoder_flops(spec, 12, 3) == counted(lambda: model.encoder(torch.zeros(1, 12, 4), mask, cond))


def test_training_is_three_times_the_forward_pass(model):
    """The head works on four draws of each masked position."""
    config = dataclasses.replace(SPEC, model=dataclasses.replace(CONFIG, diffusion_batch_mul=4))
    hidden, target = torch.zeros(1, 9, 16), torch.zeros(1, 9, 4)
    head = counted(lambda: model.head.loss(hidden, target, torch.Generator(), 4))
    assert work.training_flops(config, 12, 9) == 3 * (work.encoder_flops(SPEC, 12, 3, 9) + head)


@pytest.mark.parametrize("period", [1, 2, 3])
def test_an_encoder_that_reuses_is_counted_as_it_computes(model, period):
    """Pass for pass, but for the queries of Enc2's last block, which only the positions asked for need."""
    plan = [it._replace(guidance_scale=2.0 if i < 4 else 1.0) for i, it in enumerate(work.iterations_of(SIX, 12))]
    encoder, done = ReusingEncoder(model.encoder, period), []
    for it in plan:
        rows = 2 if it.guided else 1
        mask = (torch.arange(12)[None] >= it.kept).expand(rows, 12)
        asked = torch.arange(it.kept, it.kept + it.revealed)[None].expand(rows, it.revealed)
        patches, cond = torch.zeros(rows, 12, 4), Condition(torch.zeros(rows, 3, 16))
        done.append(counted(lambda: encoder(patches, mask, cond, asked, it.kept)))  # noqa: B023
    news = work.new_patches(plan, period)
    assert (None in news[1:4]) == (period < 4)
    assert news[4] is None  # guidance ended: another batch
    expected = []
    for it, new in zip(plan, news, strict=True):
        computed = 15 if new is None else new + it.revealed
        spare = (computed - it.revealed) * 2 * 16 * 16
        flops = work.encoder_work(SPEC, "32-true", 1, 12, it, new).flops
        expected.append(flops + (2 if it.guided else 1) * spare)
    assert done == expected


def test_reuse_lowers_the_bound():
    plan = work.iterations_of(SIX, 12)
    full, reused = (
        work.generation(SPEC, RATES, dataclasses.replace(SIX, encoder_reuse=period), 8, 12, plan) for period in (1, 3)
    )
    assert reused["encoder"].flops < full["encoder"].flops
    assert reused["head"] == full["head"]


def test_a_patch_on_narrow_latents_is_as_wide_as_they_are():
    spec = dataclasses.replace(SPEC, model=dataclasses.replace(CONFIG, patch_size=2))
    assert work.patch_dim(spec) == Impact(spec).patch_dim == 8


def test_other_heads_are_refused():
    spec = dataclasses.replace(SPEC, model=dataclasses.replace(CONFIG, head="mse"))
    with pytest.raises(ValueError, match="diffusion, consistency only"):
        work.generation(spec, RATES, DecodingConfig(), 1, 12, [])


def test_the_consistency_heads_weights_are_counted():
    spec = dataclasses.replace(SPEC, model=dataclasses.replace(CONFIG, head="consistency"))
    head = Impact(spec).head
    once = head.cond_proj.weight.numel() + head.guidance_proj.weight.numel()
    once += sum(p.numel() for p in head.time_embed.parameters() if p.ndim == 2)
    assert sum(work.head_sizes(spec)) + once == sum(p.numel() for p in head.parameters() if p.ndim == 2)


def test_the_consistency_head_works_once_under_guidance():
    spec = dataclasses.replace(SPEC, model=dataclasses.replace(CONFIG, head="consistency"))
    it = work.iterations_of(SIX, 12)[0]
    assert it.guided
    once = work.head_work(spec, "32-true", 1, it)
    assert once == work.head_work(spec, "32-true", 1, it._replace(guidance_scale=1.0))
    assert once.flops < work.head_work(SPEC, "32-true", 1, it._replace(guidance_scale=1.0)).flops


def test_reveals_that_depend_on_drafts_are_refused():
    with pytest.raises(ValueError, match="adaptive"):
        work.iterations_of(DecodingConfig(num_iterations=4, reveal="adaptive"), 12)
