"""The fused engine against the reference: the same seed gives the same latents, up to rounding."""

import dataclasses

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

from impact_pl.config import DECODING_CHOICES
from impact_pl.inference.diffusion_loop import CHUNK_ROWS
from impact_pl.inference.engine import ENGINES, build_engine, fast_head
from impact_pl.inference.generate import generate
from impact_pl.models.condition import Condition
from impact_pl.models.heads import HEADS
from impact_pl.models.heads.base import Sampling
from impact_pl.models.impact import Impact
from impact_pl.models.spec import ImpactSpec
from impact_pl.sampling.schedules import GUIDANCE_SCHEDULES, REVEALS
from impact_pl.sampling.solvers import SOLVERS
from tests.helpers.models import QUICK, TINY, assert_same, both, build, captions, model_with, rng


@pytest.mark.parametrize("options", [{}, {"local_kernel": 3, "prediction": "velocity"}])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("schedule", ["cosine", "constant", "linear"])
@pytest.mark.parametrize("order", ["random", "confidence"])
def test_same_latents(batch, schedule, order, options):
    model = build(depth=2, head_depth=2, **options)
    assert_same(*both(model, captions(batch), 12, batch, guidance_schedule=schedule, order=order))


@pytest.mark.parametrize("head", HEADS)
def test_same_latents_with_every_head(head):
    assert_same(*both(model_with(head), captions(), 12, 2))


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_same_latents_by_every_solver(prediction, solver):
    assert_same(*both(build(prediction=prediction, head_depth=2), captions(), 12, 2, solver=solver))


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_same_latents_with_every_patch_size(patch_size):
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, patch_size=patch_size, max_patches=64)
    model = Impact(ImpactSpec(config, 8, 4, [0.0] * 8, 1.0, text_features={"clap": (1, 5), "words": (3, 6)})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert_same(*both(model, captions(), 8, 2))


@pytest.mark.parametrize("text_features", [{}, None])
def test_same_latents_without_captions(text_features):
    model = build() if text_features is None else build(text_features)
    assert_same(*both(model, None, 12, 2))


@pytest.mark.parametrize(
    "config",
    [
        {"min_alpha_bar": 0.0},
        {"temperature": 0.7},
        {"temperature": 0.0},
        {"temperature": 0.7, "solver": "ddim"},
        {"guidance_scale": 1.0},
    ],
)
def test_same_latents_with_other_knobs(config):
    assert_same(*both(build(), captions(), 12, 2, **config))


def test_chunks_of_timesteps_do_not_matter():
    """One row computes all modulations at once, many rows a timestep's at a time."""
    head = build(head_depth=2).head
    loop, sampling = fast_head(head, torch.float32), Sampling(3.0, 30, min_alpha_bar=1e-3)
    for rows in (1, CHUNK_ROWS // 14, CHUNK_ROWS):
        hidden, null_hidden = torch.randn(2, 1, rows, 32, generator=rng())
        with torch.no_grad():
            assert_same(*(s.sample(hidden, null_hidden, sampling, rng()) for s in (loop, head)))


@pytest.mark.parametrize("options", [{}, {"local_kernel": 3, "prediction": "velocity"}])
def test_bf16_is_near(options):
    """Rounding of bf16 (0.4 %) in trunk and head; one iteration, so that nothing makes another clip of it."""
    model = build(depth=2, head_depth=2, **options)
    fused, reference = both(model, captions(), 12, 2, num_iterations=1, guidance_scale=2.0, precision="bf16")
    full, _ = both(model, captions(), 12, 2, num_iterations=1, guidance_scale=2.0)
    for result in (fused, reference):
        assert 1e-6 < ((result - full).norm() / full.norm()) < 0.05


@torch.no_grad()
@pytest.mark.parametrize("depth", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_bf16_between_the_blocks_costs_little_at_the_width_of_base(depth):
    """The fused engine adds the blocks up in bf16, training in float32: 1.0 and 0.7 % off at depth 12."""
    model = build(dim=768, num_heads=12, depth=depth, perturbed=False)
    encoder = model.encoder
    patches, mask = torch.randn(2, 12, model.patch_dim, generator=rng()), torch.zeros(2, 12, dtype=torch.bool)
    mask[:, 4:] = True
    arguments = (patches, mask, Condition(0.02 * torch.randn(2, 4, 768, generator=rng())))
    positions = torch.arange(4, 12).expand(2, 8)
    full = encoder(*arguments, positions, 4)
    with torch.autocast("cpu", torch.bfloat16):
        trained = encoder(*arguments, positions, 4).float()
    fused = ENGINES["fused"](model, torch.bfloat16).encode(*arguments, positions, 4).float()
    errors = [((result - full).norm() / full.norm()).item() for result in (trained, fused)]
    assert 1e-4 < errors[0] < 0.01
    assert errors[1] < min(0.015, 2 * errors[0])


def test_an_engine_is_a_snapshot():
    model, text = build(), captions()
    engine = build_engine(model, QUICK)
    before = generate(model, text, 12, 2, QUICK, rng())
    assert torch.equal(generate(model, text, 12, 2, QUICK, rng(), engine=engine), before)
    with torch.no_grad():
        model.head.final_proj.bias.add_(1)
    assert torch.equal(generate(model, text, 12, 2, QUICK, rng(), engine=engine), before)
    assert not torch.equal(generate(model, text, 12, 2, QUICK, rng()), before)


@pytest.fixture
def mesh(tmp_path):
    """Of one process, which shards a weight into one part."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_sharded_weights_compute_everything_anew(mesh):
    """They get the reference engine, which has nothing to reuse."""
    model, decoding = build(depth=2), dataclasses.replace(QUICK, encoder_reuse=2)
    want = generate(model, captions(), 12, 2, dataclasses.replace(QUICK, engine="reference"), rng())
    weight = model.head.final_proj.weight
    model.head.register_parameter("sharded", torch.nn.Parameter(distribute_tensor(weight.detach(), mesh)))
    assert torch.equal(generate(model, captions(), 12, 2, decoding, rng()), want)


@pytest.mark.parametrize(
    ("field", "table"),
    [
        ("engine", ENGINES),
        ("guidance_schedule", GUIDANCE_SCHEDULES),
        ("reveal", {*REVEALS, "adaptive"}),
        ("solver", SOLVERS),
    ],
)
def test_every_name_stands_for_something(field, table):
    assert set(DECODING_CHOICES[field]) == set(table)
