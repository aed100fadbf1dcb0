"""The head of one step: its score, its draws, and that it learns a distribution."""

import dataclasses

import pytest
import torch
from test_heads import CONFIG, model_with, train_head
from test_impact import QUICK, build, captions, latents, rng

from impact_pl.config import DistillConfig, MaskRatioConfig
from impact_pl.diffusion import ancestral_sample, make_schedule
from impact_pl.models.heads import EnergyHead
from impact_pl.models.heads.base import Sampling
from impact_pl.models.heads.energy import energy_score
from impact_pl.models.teacher import Teacher


def test_energy_score_by_hand():
    drawn, target = torch.tensor([[[0.0, 0.0]], [[2.0, 2.0]], [[0.0, 4.0]]]), torch.tensor([[0.0, 0.0]])
    # root mean squares: to the target 0, 2, sqrt(8); between the draws 2, sqrt(8), 2
    by_hand = torch.tensor([(0 + 2 + 8**0.5) / 3 - (2 + 8**0.5 + 2) / 3 / 2])
    torch.testing.assert_close(energy_score(drawn, target), by_hand)


def test_energy_head_draws_clean_patches_whatever_its_teacher_predicts():
    """And has nothing of the diffusion head's that would not work on it."""
    noise, velocity = (model_with("energy", prediction=prediction) for prediction in ("noise", "velocity"))
    assert torch.equal(*(model.generate(captions(), 12, 2, QUICK, rng()) for model in (noise, velocity)))
    own = {"noise_proj.weight", "guidance_proj.weight"}
    assert noise.head.state_dict().keys() - build().head.state_dict().keys() == own
    assert not any(hasattr(noise.head, name) for name in ("denoiser", "loss_at", "predicts_velocity"))


@pytest.mark.parametrize("num_steps", [1, 4])
def test_energy_head_learns_a_spread_and_not_its_mean(num_steps):
    """Patches of one hidden vector lie on two sides, at +1 and -1: draws of the trained head do so, too."""
    torch.manual_seed(0)
    head = EnergyHead(dataclasses.replace(CONFIG, head="energy", head_width=64, head_depth=2), 4)
    sides = (torch.arange(256) % 2 * 2.0 - 1)[None, :, None].expand(1, 256, 4)
    hidden = torch.ones(1, 256, 32)
    train_head(head, hidden, sides, steps=300, draws=4)
    with torch.no_grad():
        drawn = head.sample(hidden, None, Sampling(1.0, num_steps), rng())[0]
    assert drawn.abs().mean() > 0.8
    assert 0.3 < (drawn.mean(dim=1) > 0).float().mean() < 0.7
    assert drawn.std(dim=1).mean() < 0.4  # the four numbers of a patch agree


def test_energy_head_learns_what_guidance_does():
    """Draws at scale s lie around s: the trained head's do so, too, at scales between those that it saw."""
    torch.manual_seed(0)
    head = EnergyHead(dataclasses.replace(CONFIG, head="energy", head_width=64, head_depth=2), 4)
    hidden, null_hidden = torch.ones(8, 32, 32), torch.zeros(8, 32, 32)
    scale = torch.linspace(1, 3, 8)[:, None, None]
    target = scale.expand(8, 32, 4) + 0.1 * torch.randn(8, 32, 4, generator=rng())
    optimizer, generator = torch.optim.Adam(head.parameters(), lr=3e-3), rng()
    for _ in range(300):
        optimizer.zero_grad()
        head.loss(hidden, target, generator, 2, null_hidden, scale)[0].mean().backward()
        optimizer.step()
    for wanted in (1.0, 2.15, 3.0):
        with torch.no_grad():
            drawn = head.sample(hidden, null_hidden, Sampling(wanted, 1), rng())
        assert drawn.mean().item() == pytest.approx(wanted, abs=0.15)


def test_a_teacher_draws_as_its_head_does_at_the_scale_it_names():
    model = model_with("diffusion", prediction="velocity")
    spec = dataclasses.replace(model.spec, model=dataclasses.replace(model.spec.model, head="energy"))
    teacher = Teacher(spec, model.patch_dim, DistillConfig(num_diffusion_steps=5, guidance_scale=4.0, temperature=0.7))
    teacher.head.load_state_dict(model.head.state_dict())
    hidden, null_hidden = torch.randn(2, 3, 6, 32, generator=rng())
    drawn, scale = teacher.draw(hidden, null_hidden, 0.5, rng())
    generator = rng()
    share, kind = torch.rand(2, 3, generator=generator)
    torch.testing.assert_close(scale.flatten(), 1 + 3 * torch.where(kind < 0.5, 0.5, share))
    assert 0 < (kind < 0.5).sum() < 3
    noise = [torch.randn(3, 6, 4, generator=generator) for _ in range(5)]
    for i in range(3):  # each clip by itself, at its scale, from the same noise
        denoise = teacher.head.denoiser(hidden[i : i + 1], null_hidden[i : i + 1], scale[i].item())
        with torch.no_grad():
            alone = ancestral_sample(
                denoise, make_schedule(1000, 5, 1e-3), noise[0][i : i + 1], [z[i : i + 1] for z in noise[1:]], 0.7
            )
        torch.testing.assert_close(drawn[i : i + 1], alone)


def test_the_teacher_draws_for_so_many_positions_of_what_is_masked():
    model = model_with("energy", mask_ratio=MaskRatioConfig(kind="fixed", value=0.75))
    for wanted, learned in ((2, 2), (64, 9)):  # 9 of 12 patches are masked
        teacher = Teacher(model.spec, model.patch_dim, DistillConfig(num_positions=wanted, num_diffusion_steps=2))
        result = model.loss(latents(), captions(), rng(), teacher=teacher)
        assert result.mask_ratio == 0.75
        assert result.per_position.shape == (2 * learned,)
        assert all(parameter.grad is None for parameter in teacher.parameters())
