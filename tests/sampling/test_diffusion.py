import math

import pytest
import torch

from impact_pl.sampling.diffusion import (
    Prediction,
    add_noise,
    cosine_betas,
    diffusion_loss,
    make_schedule,
    noise_of_velocity,
    posterior_mean,
    respaced_timesteps,
    variational_bound,
)
from tests.helpers.ancestral import ancestral_sample


def oracle(schedule, x0, variance=0.0):
    """A denoiser that knows the clean patches."""

    def denoise(noisy, timestep):
        step = (schedule.timesteps == timestep).nonzero()[0]
        noise = (noisy - schedule.sqrt_alpha_bars[step] * x0) / schedule.sqrt_one_minus_alpha_bars[step]
        return Prediction(noise, torch.full_like(noise, variance))

    return denoise


def normals(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_cosine_schedule_closed_form():
    schedule = make_schedule(1000)
    t = (torch.arange(1, 999, dtype=torch.float64)) / 1000
    alpha_bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(schedule.alpha_bars[:998].double(), alpha_bar, rtol=1e-5, atol=1e-9)
    assert cosine_betas(1000).max() == 0.999
    assert len(schedule) == 1000


@pytest.mark.parametrize("num_steps", [1, 2, 10, 100, 333, 1000])
def test_respacing_keeps_alpha_bar(num_steps):
    full, respaced = make_schedule(1000), make_schedule(1000, num_steps)
    assert len(respaced) == num_steps
    assert respaced.timesteps[-1] == 999
    assert torch.equal(respaced.alpha_bars, full.alpha_bars[respaced.timesteps])
    assert all(torch.isfinite(value).all() for value in vars(respaced).values())


def test_min_alpha_bar_leaves_out_the_last_timesteps():
    full, cut = make_schedule(1000), make_schedule(1000, 100, min_alpha_bar=1e-3)
    last = cut.timesteps[-1].item()
    assert full.alpha_bars[last] >= 1e-3 > full.alpha_bars[last + 1]
    assert cut.timesteps[0] == 0
    growth = lambda schedule: (schedule.alpha_bars[:-1] / schedule.alpha_bars[1:]).sqrt().max()  # noqa: E731
    assert growth(cut) < 1.6  # the most that a step multiplies an error by
    assert growth(make_schedule(1000, 100)) > 300
    with pytest.raises(ValueError, match=f"choose 1 to {last + 1}"):
        make_schedule(1000, 1000, min_alpha_bar=1e-3)


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_respacing_out_of_range(num_steps):
    with pytest.raises(ValueError, match="choose 1 to 1000"):
        respaced_timesteps(1000, num_steps)


@pytest.mark.parametrize("num_steps", [1, 2, 10, 100])
def test_sampler_with_an_oracle_recovers_x0(num_steps):
    schedule, x0 = make_schedule(1000, num_steps), normals((5, 8), 0)
    noises = [normals((5, 8), seed) for seed in range(1, num_steps)]
    sample = ancestral_sample(oracle(schedule, x0), schedule, normals((5, 8), 100), noises)
    # A single step multiplies rounding by 1 / sqrt(alpha_bar) = 20,000.
    torch.testing.assert_close(sample, x0, rtol=0, atol=1e-5 if num_steps > 1 else 2e-2)


def test_sampler_draws_the_distribution_it_was_given():
    """The optimal denoiser of a Gaussian of mean 3 and std 2, over all timesteps, gives that Gaussian back."""
    schedule = make_schedule(100)

    def denoise(noisy, timestep):
        a = schedule.alpha_bars[timestep]
        posterior = 3 + 4 * a.sqrt() * (noisy - 3 * a.sqrt()) / (4 * a + 1 - a)
        return Prediction((noisy - a.sqrt() * posterior) / (1 - a).sqrt(), torch.ones_like(noisy))

    generator = torch.Generator().manual_seed(0)
    noises = (torch.randn(20_000, 1, generator=generator) for _ in range(99))
    sample = ancestral_sample(denoise, schedule, torch.randn(20_000, 1, generator=generator), noises)
    assert sample.mean().item() == pytest.approx(3, abs=0.05)
    assert sample.std().item() == pytest.approx(2, abs=0.05)


def test_temperature_zero_adds_no_noise():
    schedule, x0, start = make_schedule(1000, 10), torch.zeros(2, 3), normals((2, 3), 0)
    runs = [
        ancestral_sample(oracle(schedule, x0 + 1), schedule, start, [normals((2, 3), s + i) for i in range(9)], 0.0)
        for s in (0, 50)
    ]
    assert torch.equal(*runs)


def test_forward_process_then_posterior_has_the_right_mean():
    schedule, x0 = make_schedule(1000), normals((4, 3), 0)
    step = torch.tensor([1, 100, 500, 998])
    noisy = add_noise(schedule, x0, step, torch.zeros(4, 3))
    # Without noise the posterior mean lies on the noise-free path.
    torch.testing.assert_close(posterior_mean(schedule, x0, noisy, step), schedule.sqrt_alpha_bars[step - 1, None] * x0)


def test_variational_bound_is_zero_for_the_true_posterior_only():
    schedule, x0, noise = make_schedule(1000), normals((4, 3), 0), normals((4, 3), 1)
    step = torch.tensor([5, 100, 500, 990])
    noisy = add_noise(schedule, x0, step, noise)
    lower = torch.full_like(noise, -1.0)  # -1 is the posterior's own variance
    bound = variational_bound(schedule, Prediction(noise, lower), x0, noisy, step)
    torch.testing.assert_close(bound, torch.zeros(4), rtol=0, atol=1e-4)
    assert (variational_bound(schedule, Prediction(noise + 1, lower), x0, noisy, step) > 1e-3).all()


def test_variational_term_does_not_reach_the_predicted_noise():
    schedule, x0, noise = make_schedule(1000), normals((4, 3), 0), normals((4, 3), 1)
    step = torch.tensor([0, 100, 500, 990])
    noisy = add_noise(schedule, x0, step, noise)
    predicted = torch.zeros(4, 3, requires_grad=True)
    variance = torch.zeros(4, 3, requires_grad=True)
    diffusion_loss(schedule, Prediction(predicted, variance), x0, noisy, step, noise).sum().backward()
    torch.testing.assert_close(predicted.grad, -2 * noise / 3)  # of the squared error alone
    assert (variance.grad != 0).all()


def test_velocity_gives_back_the_noise():
    schedule, step = make_schedule(1000), torch.tensor([0, 300, 978, 999])
    x0, noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    noisy = add_noise(schedule, x0, step, noise)
    signal, rest = schedule.sqrt_alpha_bars[step, None], schedule.sqrt_one_minus_alpha_bars[step, None]
    torch.testing.assert_close(noise_of_velocity(schedule, noisy, step, signal * noise - rest * x0), noise)
