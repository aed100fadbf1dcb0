"""Steps of the reverse diffusion: ancestral ones are ancestral_sample's, and all draw the right distribution."""

import pytest
import torch

from impact_pl.sampling.diffusion import Prediction, make_schedule
from impact_pl.sampling.solvers import SOLVERS, ancestral, solve
from tests.helpers.ancestral import ancestral_sample


def normals(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gaussian(schedule, mean=3.0, std=2.0):
    """The best prediction of the noise in a Gaussian of ``mean`` and ``std``, given x and a timestep (1,)."""

    def noise(x, timestep):
        a = make_schedule().alpha_bars.double()[timestep].float()
        clean = mean + std**2 * a.sqrt() * (x - mean * a.sqrt()) / (std**2 * a + 1 - a)
        return (x - a.sqrt() * clean) / (1 - a).sqrt()

    return noise


@pytest.mark.parametrize("num_steps", [1, 2, 10, 100])
def test_ancestral_steps_are_ancestral_sampling(num_steps):
    schedule = make_schedule(1000, num_steps, min_alpha_bar=1e-3)
    noise, noises = gaussian(schedule), [normals((50, 3), i) for i in range(1, num_steps)]
    variance = normals((50, 3), 1000).tanh()
    denoise = lambda x, timestep: Prediction(noise(x, timestep), variance)  # noqa: E731
    want = ancestral_sample(denoise, schedule, normals((50, 3), 0), noises, 0.9)
    timesteps = schedule.timesteps.flip(0)
    steps = ancestral(schedule, temperature=0.9)
    got = solve(lambda x, i: denoise(x, timesteps[i : i + 1]), steps, normals((50, 3), 0), noises)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_velocity_and_noise_are_two_names_of_one_thing(solver):
    schedule = make_schedule(1000, 12, min_alpha_bar=1e-3)
    noise, noises = gaussian(schedule), [normals((50, 3), i) for i in range(1, 12)]
    timesteps, a = schedule.timesteps.flip(0), schedule.alpha_bars.flip(0)

    def run(predicts_velocity):
        def denoise(x, i):
            eps = noise(x, timesteps[i : i + 1])
            velocity = (eps - (1 - a[i]).sqrt() * x) / a[i].sqrt()
            return velocity if predicts_velocity else eps, torch.zeros_like(x)

        return solve(denoise, SOLVERS[solver](schedule, predicts_velocity), normals((50, 3), 0), noises)

    torch.testing.assert_close(run(True), run(False), rtol=1e-3, atol=1e-3)


def spread(solver, num_steps):
    """Standard deviation that ``num_steps`` steps give to a Gaussian's samples, as a share of the true one."""
    schedule = make_schedule(1000, num_steps, min_alpha_bar=1e-3)
    noise, timesteps = gaussian(schedule), schedule.timesteps.flip(0)
    denoise = lambda x, i: (noise(x, timesteps[i : i + 1]), torch.full_like(x, -1.0))  # noqa: E731
    noises = (normals((20_000, 1), i) for i in range(1, num_steps))
    return solve(denoise, SOLVERS[solver](schedule), normals((20_000, 1), 0), noises).std().item() / 2


@pytest.mark.parametrize("solver", SOLVERS)
def test_many_steps_draw_the_gaussian(solver):
    assert spread(solver, 400) == pytest.approx(1, abs=0.02)


def test_ddim_goes_where_the_flow_of_a_gaussian_goes():
    """Without noise the whole path is decided by its start, and a Gaussian's is stretched and moved."""
    schedule = make_schedule(1000, 400, min_alpha_bar=1e-3)
    noise, timesteps, start = gaussian(schedule), schedule.timesteps.flip(0), normals((100, 1), 0)
    denoise = lambda x, i: (noise(x, timesteps[i : i + 1]), torch.zeros_like(x))  # noqa: E731
    signal = schedule.alpha_bars[-1]
    std = (4 * signal + 1 - signal).sqrt()  # of x_T, which is taken for N(sqrt(signal) 3, std)
    want = 3 + 2 * (start - signal.sqrt() * 3) / std
    got = solve(denoise, SOLVERS["ddim"](schedule), start, [])
    torch.testing.assert_close(got, want, rtol=0, atol=0.03)


def test_max_rms_scales_down_what_leaves_the_range_and_nothing_else():
    """A denoiser that overshoots ends at the bound; patches within it come out as without a bound."""
    schedule = make_schedule(1000, 12, min_alpha_bar=1e-3)
    timesteps, noises = schedule.timesteps.flip(0), [normals((50, 8), i) for i in range(1, 12)]

    def run(mean, max_rms):
        noise = gaussian(schedule, mean=mean, std=0.1)
        denoise = lambda x, i: (noise(x, timesteps[i : i + 1]), torch.full_like(x, -1.0))  # noqa: E731
        return solve(denoise, ancestral(schedule), normals((50, 8), 0), noises, max_rms)

    rms = run(4.0, 1.5).square().mean(dim=-1).sqrt()
    assert torch.all(rms <= 1.5 + 1e-5)
    assert torch.all(rms > 1.4)
    torch.testing.assert_close(run(0.5, 3.0), run(0.5, 0.0))
