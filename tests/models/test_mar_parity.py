"""Our model against arrays that the public MAR code computed with the same weights (tests/golden/README.md)."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from impact_pl.config import DecodingConfig, ModelConfig
from impact_pl.models.condition import Condition
from impact_pl.models.impact import Impact
from impact_pl.models.mar import load_mar
from impact_pl.models.spec import ImpactSpec
from impact_pl.sampling import decoding, masking
from impact_pl.sampling.diffusion import Schedule, make_schedule, respaced_timesteps
from impact_pl.sampling.solvers import ancestral, solve, trajectory

CLOSE = {"rtol": 1e-5, "atol": 2e-6}
SCHEDULE = {
    "alpha_bars": "alphas_cumprod",
    "sqrt_alpha_bars": "sqrt_alphas_cumprod",
    "sqrt_one_minus_alpha_bars": "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alpha_bars": "sqrt_recip_alphas_cumprod",
    "sqrt_recip_minus_one": "sqrt_recipm1_alphas_cumprod",
    "posterior_mean_x0": "posterior_mean_coef1",
    "posterior_mean_noisy": "posterior_mean_coef2",
    "posterior_log_variance": "posterior_log_variance_clipped",
}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(Path(__file__).parents[1] / "golden" / "mar_parity.safetensors")


@pytest.fixture
def model(golden) -> Impact:
    config = ModelConfig(dim=32, depth=2, num_heads=4, patch_size=2, max_patches=16, head_width=32, head_depth=2)
    spec = ImpactSpec(config, 2, 8, [0.0, 0.0], 1.0, text_features={"buffer": (4, 5)})
    model = Impact(spec).eval()
    report = load_mar(model, {k.removeprefix("weights."): v for k, v in golden.items() if k.startswith("weights.")})
    ours = {"null_cond", "text_proj.buffer.weight", "text_proj.buffer.bias"}
    assert set(report.not_taken) == ours | {"class_emb.weight", "fake_latent"}
    assert set(report.taken) == set(model.state_dict()) - ours
    return model


def low_steps(num_steps: int = 10) -> Schedule:
    """The respaced schedule without its last timestep."""
    schedule = make_schedule(1000, num_steps)
    return Schedule(*(getattr(schedule, field.name)[:-1] for field in fields(Schedule)))


@pytest.mark.parametrize(("name", "num_steps"), [("full", 1000), ("hundred", 100), ("ten", 10)])
def test_schedule(golden, name, num_steps):
    schedule = make_schedule(1000, num_steps)
    assert schedule.timesteps.tolist() == golden[f"schedule.{name}.timesteps"].tolist()
    for ours, theirs in SCHEDULE.items():
        torch.testing.assert_close(getattr(schedule, ours), golden[f"schedule.{name}.{theirs}"].float(), **CLOSE)
    torch.testing.assert_close(schedule.log_betas.exp(), golden[f"schedule.{name}.betas"].float(), **CLOSE)


@pytest.mark.parametrize("num_steps", [2, 3, 7, 25, 50, 250, 999, 1000])
def test_respaced_timesteps(golden, num_steps):
    assert respaced_timesteps(1000, num_steps) == golden[f"respaced.{num_steps}"].tolist()


def test_patches(golden, model):
    assert torch.equal(model.patchify(golden["latents"]), golden["patches"])
    assert torch.equal(model.unpatchify(golden["patches"]), golden["latents"])


@pytest.mark.parametrize(("cond", "hidden"), [("cond", "hidden"), ("null_cond", "null_hidden")])
def test_encoder(golden, model, cond, hidden):
    ours = model.encoder(golden["patches"], golden["mask"], Condition(golden[cond].expand(2, -1, -1)))
    torch.testing.assert_close(ours, golden[hidden], **CLOSE)


def test_encoder_at_chosen_positions(golden, model):
    positions = golden["order"][:, 3:8]
    ours = model.encoder(golden["patches"], golden["mask"], Condition(golden["cond"]), positions)
    torch.testing.assert_close(ours, golden["hidden"].gather(1, positions[..., None].expand(-1, -1, 32)), **CLOSE)


def test_training_loss_and_gradients(golden, model):
    mask = golden["mask"]
    hidden = model.encoder(golden["patches"], mask, Condition(golden["cond"]))[mask]
    target = golden["patches"][mask].repeat(2, 1)
    rows = mask.flatten().repeat(2)
    timesteps, noise = golden["loss_timesteps"][rows], golden["loss_noise"][rows]
    assert {0, 1, 999} <= set(timesteps.tolist())
    losses, _ = model.head.loss_at(hidden, target, timesteps, noise)
    torch.testing.assert_close(losses, golden["loss_rows"][rows], **CLOSE)
    torch.testing.assert_close(losses.mean(), golden["loss"], **CLOSE)

    losses.mean().backward()
    pairs = {
        "z_proj.weight": model.encoder.patch_proj.weight.grad,
        "encoder_blocks.0.attn.qkv.weight": model.encoder.enc1.blocks[0].attn.qkv.weight.grad,
        "decoder_pos_embed_learned": torch.cat(
            [model.encoder.enc2.text_pos.grad, model.encoder.enc2.patch_pos.grad], dim=1
        ),
        "diffloss.net.final_layer.linear.weight": model.head.final_proj.weight.grad,
    }
    for name, ours in pairs.items():
        theirs = golden[f"grad.{name}"]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("start_at", ["", "low_"])
@pytest.mark.parametrize(("kind", "scale", "temperature"), [("plain", 1.0, 0.9), ("guided", 3.0, 1.0)])
@torch.no_grad()
def test_sampling_trajectory(golden, model, start_at, kind, scale, temperature):
    theirs = golden[f"sample_{start_at}{kind}"]  # (steps, K, P)
    schedule = low_steps() if start_at else model.head.schedule(10, torch.device("cpu"))
    denoise = model.head.denoiser(golden["sample_hidden"], golden["sample_null_hidden"], scale)
    timesteps, noises = schedule.timesteps.flip(0), golden[f"sample_{start_at}{kind}_noise"]
    steps = ancestral(schedule, temperature=temperature)
    ours = trajectory(lambda x, i: denoise(x, timesteps[i : i + 1]), steps, golden["sample_start"], noises)
    for step, (x, want) in enumerate(zip(ours, theirs, strict=True)):
        # From timestep 999 rounding is amplified with everything else, to 4e-6 of the largest on some processors.
        torch.testing.assert_close(x, want, rtol=1e-5, atol=1e-5 * want.abs().max().item(), msg=f"step {step}")


@torch.no_grad()
def test_whole_generation(golden, model, monkeypatch):
    """The same order, noise and weights give the same latents through encoder, head and iterative decoding."""
    order = golden["generate.order"]
    monkeypatch.setattr(masking, "random_order", lambda *args: order)
    taken = 0
    rows = None

    def encode(patches, mask, positions, num_kept, guided):
        nonlocal rows
        # The reference lists the patches of an iteration in ascending position; its noise has that order.
        rows = positions.argsort(dim=1).argsort(dim=1) + positions.shape[1] * torch.arange(2)[:, None]
        return tuple(
            model.encoder(patches, mask, Condition(golden[cond].expand(2, -1, -1)), positions)
            for cond in ("cond", "null_cond")
        )

    def sample(hidden, null_hidden, guidance_scale, num_diffusion_steps):
        nonlocal taken
        index = taken + rows
        taken += rows.numel()
        denoise = model.head.denoiser(hidden, null_hidden, guidance_scale)
        timesteps, noises = low_steps().timesteps.flip(0), golden["generate.noises"][:, index]
        step = lambda x, i: denoise(x, timesteps[i : i + 1])  # noqa: E731
        return solve(step, ancestral(low_steps()), golden["generate.starts"][index], noises)

    config = DecodingConfig(num_iterations=5, guidance_scale=3.0, guidance_schedule="constant")
    patches = decoding.decode(encode, sample, torch.zeros(2, 16, 8), config, torch.Generator())
    assert taken == len(golden["generate.starts"])
    torch.testing.assert_close(model.unpatchify(patches), golden["generate.latents"], rtol=1e-4, atol=1e-4)
