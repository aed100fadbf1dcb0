"""The head of one step: it goes where its teacher goes, from every point of the way and under every guidance."""

import dataclasses

import pytest
import torch

from impact_pl.config import DistillConfig, MaskRatioConfig
from impact_pl.inference.generate import generate
from impact_pl.models.heads import ConsistencyHead
from impact_pl.models.heads.base import Sampling
from impact_pl.sampling.diffusion import make_schedule
from impact_pl.sampling.solvers import ddim
from impact_pl.training.distillation import Teacher, distillation_loss
from tests.helpers.models import QUICK, build, captions, latents, model_with, rng


def pupil_and_teacher(num_steps: int = 5, num_positions: int = 64, **decoding):
    """The spec of a model with the one-step head, and its teacher, of random weights."""
    model = build(prediction="velocity", head_width=64, head_depth=2)
    spec = dataclasses.replace(
        model.spec,
        model=dataclasses.replace(model.spec.model, head="consistency"),
        decoding={"min_alpha_bar": 1e-3} | decoding,
    )
    teacher = Teacher(spec, model.patch_dim, DistillConfig(num_positions, num_steps))
    teacher.head.load_state_dict(model.head.state_dict())
    return spec, teacher


def test_at_the_end_of_a_path_a_patch_is_what_it_is():
    """Whatever the teacher predicts, and with nothing of the diffusion head's that would not work here."""
    noise, velocity = (model_with("consistency", prediction=prediction) for prediction in ("noise", "velocity"))
    assert torch.equal(*(generate(model, captions(), 12, 2, QUICK, rng()) for model in (noise, velocity)))
    assert noise.head.state_dict().keys() - build().head.state_dict().keys() == {"guidance_proj.weight"}
    assert not any(hasattr(noise.head, name) for name in ("denoiser", "loss_at", "predicts_velocity"))
    patches, cond = torch.randn(2, 6, 4, generator=rng()), torch.randn(2, 6, 32, generator=rng())
    with torch.no_grad():
        torch.testing.assert_close(noise.head.clean(patches, torch.tensor([0]), cond), patches, atol=0.05, rtol=0)


def test_it_learns_where_its_teacher_goes():
    """From the same noise to the same patch, at guidance scales between those that it saw: not its mean."""
    torch.manual_seed(0)
    spec, teacher = pupil_and_teacher(temperature=0.8, guidance_scale=3.0)
    head = ConsistencyHead(spec.model, 4)
    optimizer, generator = torch.optim.Adam(head.parameters(), lr=3e-3), rng()
    hidden, null_hidden = torch.randn(2, 2, 1, 32, generator=rng()).expand(2, 2, 32, 32)
    for step in range(300):
        optimizer.zero_grad()
        teacher.loss_of(head, hidden, null_hidden, 0.5, generator, 4)[0].mean().backward()
        assert step > 0 or all(parameter.grad is not None for parameter in head.parameters())
        optimizer.step()
    for scale in (1.0, 2.2, 3.0):
        want = teacher.head.sample(hidden, null_hidden, Sampling(scale, 5, 0.8, 1e-3, "ddim"), rng())
        with torch.no_grad():
            got = head.sample(hidden, null_hidden, Sampling(scale, 1, 0.8, 1e-3), rng())
        error = (got - want).square().mean() / (want - want.mean(dim=1, keepdim=True)).square().mean()
        assert error < 0.2
        assert got.std(dim=1).mean().item() == pytest.approx(want.std(dim=1).mean().item(), rel=0.1)


@pytest.mark.parametrize(("num_steps", "where"), [(1, [978]), (2, [978, 489]), (4, [978, 734, 489, 245])])
def test_more_steps_add_noise_to_what_came_out(monkeypatch, num_steps, where):
    head, alpha_bars = model_with("consistency").head, make_schedule().alpha_bars
    seen, clean = [], head.clean

    def recorded(noisy, timestep, cond):
        seen.append((noisy, timestep.item(), clean(noisy, timestep, cond)))
        return seen[-1][2]

    monkeypatch.setattr(head, "clean", recorded)
    drawn = head.sample(torch.randn(2, 6, 32, generator=rng()), None, Sampling(1.0, num_steps, 0.7, 1e-3), rng(1))
    assert [timestep for _, timestep, _ in seen] == where
    assert drawn is seen[-1][2]
    generator, before = rng(1), None
    for noisy, timestep, after in seen:
        want = 0.7 * torch.randn(2, 6, 4, generator=generator)
        if before is not None:
            want = alpha_bars[timestep].sqrt() * before + (1 - alpha_bars[timestep]).sqrt() * want
        torch.testing.assert_close(noisy, want)
        before = after


def test_a_teacher_walks_as_its_head_samples_at_the_scale_it_names():
    _, teacher = pupil_and_teacher(guidance_scale=4.0, temperature=0.7)
    hidden, null_hidden = torch.randn(2, 3, 6, 32, generator=rng())
    path, timesteps, scale = teacher.walk(hidden, null_hidden, 0.5, rng())
    assert path.shape == (6, 3, 6, 4)
    assert timesteps.tolist() == [978, 734, 489, 244, 0]
    generator = rng()
    share, kind = torch.rand(2, 3, generator=generator)
    torch.testing.assert_close(scale.flatten(), 1 + 3 * torch.where(kind < 0.5, 0.5, share))
    assert 0 < (kind < 0.5).sum() < 3
    sampling = Sampling(scale, 5, 0.7, 1e-3, "ddim")
    torch.testing.assert_close(path[-1], teacher.head.sample(hidden, null_hidden, sampling, generator))
    torch.testing.assert_close(path[0].std(), torch.tensor(0.7), rtol=0.2, atol=0)
    schedule, denoise = make_schedule(1000, 5, 1e-3), teacher.head.denoiser(hidden, null_hidden, scale)
    for i, step in enumerate(ddim(schedule)):
        noise = denoise(path[i], timesteps[i : i + 1]).noise
        clean = step.x0_of_x * path[i] + step.x0_of_y * noise
        torch.testing.assert_close(path[i + 1], step.keep * path[i] + step.mean * clean)


def test_half_of_the_points_are_pure_noise_and_the_others_anywhere():
    spec, teacher = pupil_and_teacher()
    head = ConsistencyHead(spec.model, 4)
    hidden, null_hidden = torch.randn(2, 3, 50, 32, generator=rng())
    losses, timesteps = teacher.loss_of(head, hidden, null_hidden, 0.5, rng(), 4)
    assert losses.shape == timesteps.shape == (12, 50)
    shares = {timestep: (timesteps == timestep).float().mean().item() for timestep in (978, 734, 489, 244, 0)}
    assert shares.pop(978) == pytest.approx(0.6, abs=0.06)
    assert all(share == pytest.approx(0.1, abs=0.04) for share in shares.values())


def test_the_teacher_walks_for_so_many_positions_of_what_is_masked():
    model = model_with("consistency", mask_ratio=MaskRatioConfig(kind="fixed", value=0.75))
    for wanted, learned in ((2, 2), (64, 9)):  # 9 of 12 patches are masked
        teacher = Teacher(model.spec, model.patch_dim, DistillConfig(wanted, 2))
        result = distillation_loss(model, teacher, latents(), captions(), rng())
        assert result.mask_ratio == 0.75
        assert result.per_position.shape == (2 * learned * model.spec.model.diffusion_batch_mul,)
        assert all(parameter.grad is None for parameter in teacher.parameters())
