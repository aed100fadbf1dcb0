"""The one-step head: it draws a patch at once, and refines it in a few steps where there is time.

Dimensions: B clips, K positions, M draws of one patch, P numbers a patch, V width of the head; ``...`` are (B, K)
or more.
"""

import torch
from torch import Tensor, nn

from impact_pl.config import ModelConfig
from impact_pl.diffusion import add_noise, draw_normal, posterior_mean
from impact_pl.models.heads.base import Sampling
from impact_pl.models.heads.diffusion import AdaLNHead

FIRST_STEP_SHARE = 0.5  # of the positions in training: from pure noise, where one-step sampling starts
EXPONENT = 1.0  # of the distance; below 2, where the score would be satisfied by the right mean alone


class EnergyHead(AdaLNHead):
    """The diffusion head's network with a second noise as input, whose output is a draw of the clean patch.

    Trained by the energy score, it learns the whole distribution p(x_0 | x_t, hidden), not its mean: one step from pure
    noise is a sample (as AudioDEAR, arXiv 2605.00329, does for this paper's model), and S steps are a diffusion whose
    every step draws x_0 and then x_{t-1} from the exact posterior (De Bortoli et al., arXiv 2502.02483, Alg. 2).

    Guidance is an input (arXiv 2210.03142, Sec. 3): draws for two conditions are no means, and going from one draw past
    the other leaves what the teacher would ever draw. So this head is shown which way guidance points and how far, and
    learns from draws that its teacher made under guidance (:mod:`impact_pl.models.teacher`). One pass does for both.

    Its weights have the diffusion head's names, so that a trained one is its start; new are ``noise_proj``,
    ``guidance_proj`` and ``final_proj``, since the teacher's predicts the noise and a variance.

    It always gives the clean patch: ``model.prediction`` changes nothing here, and names what the teacher predicts.

    Note: 2605.00329 pulls the hidden states of a trainable encoder towards the teacher's, with a weight of about 1000.
    Here the encoder *is* the teacher's and stays as it is, the limit of that weight.
    """

    teacher = "diffusion"
    own_weights = ("noise_proj", "guidance_proj", "final_proj")

    def __init__(self, config: ModelConfig, patch_dim: int) -> None:
        super().__init__(config, patch_dim)
        self.noise_proj = nn.Linear(patch_dim, config.head_width, bias=False)
        self.guidance_proj = nn.Linear(config.dim, config.head_width, bias=False)
        self.final_proj = nn.Linear(config.head_width, patch_dim)

    def draw(self, noisy: Tensor, timesteps: Tensor, cond: Tensor, noise: Tensor) -> Tensor:
        """Clean patches (..., P) for noisy (..., P) at timesteps, given :meth:`condition` and noise (..., P).

        ``noise`` may have a dimension M in front: as many draws, for one reckoning of the condition.
        """
        x = self.input_proj(noisy) + self.noise_proj(noise)
        return self.network(x, timesteps, cond)

    def condition(self, hidden: Tensor, null_hidden: Tensor | None, guidance_scale: float | Tensor) -> Tensor:
        """(B, K, V) of both hidden vectors (B, K, D); a scale (B, 1, 1) differs between clips."""
        cond = self.cond_proj(hidden)
        if null_hidden is None:
            return cond
        return cond + self.guidance_proj((guidance_scale - 1) * (hidden - null_hidden))

    def loss(
        self,
        hidden: Tensor,
        target: Tensor,
        generator: torch.Generator,
        batch_mul: int = 1,
        null_hidden: Tensor | None = None,
        guidance_scale: float | Tensor = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Energy scores of M = max(2, ``batch_mul``) draws a position, and the positions' timesteps, both (B, K).

        ``null_hidden`` (B, K, D) and ``guidance_scale`` (B, 1, 1) are what ``target`` was drawn with.
        """
        draws, target = max(2, batch_mul), target.float()
        timesteps = self.draw_timesteps(len(target), target.shape[1], generator)
        first = torch.rand(timesteps.shape, generator=generator, device=generator.device) < FIRST_STEP_SHARE
        timesteps = timesteps.masked_fill(first, self.num_timesteps - 1).to(target.device)
        schedule = self.schedule(self.num_timesteps, target.device)
        noisy = add_noise(schedule, target, timesteps, draw_normal(target.shape, generator, target.device))
        noise = draw_normal((draws, *target.shape), generator, target.device)
        cond = self.condition(hidden, null_hidden, guidance_scale)
        drawn = self.draw(noisy, timesteps, cond, noise)  # (M, B, K, P)
        return energy_score(drawn, target), timesteps

    def sample(
        self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: torch.Generator
    ) -> Tensor:
        """Patches (B, K, P) in ``num_diffusion_steps`` steps; ``temperature`` scales all noise but x_T.

        ``min_alpha_bar`` has no use here: no small error is divided by the square root of alpha_bar.
        """
        schedule = self.schedule(sampling.num_diffusion_steps, hidden.device)
        cond = self.condition(hidden, null_hidden, sampling.guidance_scale)
        shape = (*hidden.shape[:-1], self.patch_dim)
        x = draw_normal(shape, generator, hidden.device)
        for i in reversed(range(len(schedule))):
            step = torch.tensor([i], device=x.device)
            noise = sampling.temperature * draw_normal(shape, generator, x.device)
            timestep = schedule.timesteps[step]
            x0 = self.draw(x, timestep, cond, noise)
            if i == 0:
                return x0
            spread = torch.exp(0.5 * schedule.posterior_log_variance[step]) * sampling.temperature
            x = posterior_mean(schedule, x0, x, step) + spread * draw_normal(shape, generator, x.device)
        raise AssertionError("a schedule has at least one step")


def energy_score(drawn: Tensor, target: Tensor) -> Tensor:
    """Energy score (...,) of draws (M, ..., P) for target (..., P): E|x - y|^a - E|x - x'|^a / 2.

    Strictly proper for 0 < a < 2 (Gneiting, Raftery 2007): its expectation is smallest when the draws are distributed
    as the targets are. The norm is the root of the mean square over the P numbers: its scale does not depend on P.
    """
    to_target = _distance(drawn, target).mean(dim=0)
    pairs = [_distance(drawn[i], drawn[j]) for i in range(len(drawn)) for j in range(i)]
    return to_target - torch.stack(pairs).mean(dim=0) / 2


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b).square().mean(dim=-1) + 1e-12) ** (EXPONENT / 2)
