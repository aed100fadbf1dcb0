"""The head of one step: its score, its draws, and that it learns a distribution."""

import dataclasses

import pytest
import torch
from test_heads import CONFIG, model_with, train_head
from test_impact import QUICK, build, captions, rng

from impact_pl.models.heads import EnergyHead
from impact_pl.models.heads.base import Sampling
from impact_pl.models.heads.energy import energy_score


def test_energy_score_by_hand():
    drawn, target = torch.tensor([[[0.0, 0.0]], [[2.0, 2.0]], [[0.0, 4.0]]]), torch.tensor([[0.0, 0.0]])
    # root mean squares: to the target 0, 2, sqrt(8); between the draws 2, sqrt(8), 2
    by_hand = torch.tensor([(0 + 2 + 8**0.5) / 3 - (2 + 8**0.5 + 2) / 3 / 2])
    torch.testing.assert_close(energy_score(drawn, target), by_hand)


def test_energy_head_draws_clean_patches_whatever_its_teacher_predicts():
    """And has nothing of the diffusion head's that would not work on it."""
    noise, velocity = (model_with("energy", prediction=prediction) for prediction in ("noise", "velocity"))
    assert torch.equal(*(model.generate(captions(), 12, 2, QUICK, rng()) for model in (noise, velocity)))
    assert noise.head.state_dict().keys() - build().head.state_dict().keys() == {"noise_proj.weight"}
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
