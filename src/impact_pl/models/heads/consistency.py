"""The one-step head: from any point of its teacher's path to the path's end, at once.

Dimensions: B clips, K positions, M points of one path, P numbers a patch, V width of the head; ``...`` are (B, K) or
more.
"""

import torch
from torch import Tensor, nn

from impact_pl.config import ModelConfig
from impact_pl.models.heads.base import Sampling
from impact_pl.models.heads.diffusion import AdaLNHead
from impact_pl.randomness import Generators, draw_normals
from impact_pl.sampling.diffusion import add_noise

FIRST_STEP_SHARE = 0.5  # of the points in training: pure noise, where one-step sampling starts
SOFTNESS = 0.03  # of the distance, below which it is quadratic (arXiv 2310.14189, Sec. 3.3: pseudo-Huber)


class ConsistencyHead(AdaLNHead):
    """The diffusion head's network, whose output is the clean patch that its teacher would go to from x_t.

    A diffusion without noise in its steps (DDIM) is a function of where it starts. This head is that function for all
    points of a path (Song et al., arXiv 2303.01469), learned from whole paths: a head is light enough to walk them in
    training (as arXiv 2101.02388 does), and no estimate of its own has to stand for the end of one. One step from pure
    noise is a sample; more steps add noise to what came out and go on from there (2303.01469, Alg. 1).

    Guidance is an input (arXiv 2210.03142, Sec. 3): this head is shown which way guidance points and how far, and
    learns paths that its teacher made under guidance (:mod:`impact_pl.training.distillation`). One pass does for both.

    Its weights have the diffusion head's names, so that a trained one is its start; new are ``guidance_proj`` and
    ``final_proj``, for the teacher's predicts a variance too. What ``final_proj`` gives is a velocity, so that at the
    end of a path the clean patch is x_t itself; ``model.prediction`` names what the teacher predicts.

    Note: 2605.00329 learns the distribution by the energy score, on an encoder whose hidden states are pulled towards
    the teacher's with a weight of about 1000. Here the encoder *is* the teacher's, the limit of that weight. The energy
    score was tried, and came out worse (docs/recipes.md).
    """

    teacher = "diffusion"
    own_weights = ("guidance_proj", "final_proj")

    def __init__(self, config: ModelConfig, patch_dim: int) -> None:
        super().__init__(config, patch_dim)
        self.guidance_proj = nn.Linear(config.dim, config.head_width, bias=False)
        self.final_proj = nn.Linear(config.head_width, patch_dim)

    def clean(self, noisy: Tensor, timesteps: Tensor, cond: Tensor) -> Tensor:
        """Clean patches (..., P) for noisy (..., P) at timesteps (...) or (1,), given :meth:`condition`."""
        schedule = self.schedule(self.num_timesteps, noisy.device)
        velocity = self.network(self.input_proj(noisy), timesteps, cond)
        signal, noise = schedule.sqrt_alpha_bars[timesteps], schedule.sqrt_one_minus_alpha_bars[timesteps]
        return signal[..., None] * noisy - noise[..., None] * velocity

    def condition(self, hidden: Tensor, null_hidden: Tensor | None, guidance_scale: float | Tensor) -> Tensor:
        """(B, K, V) of both hidden vectors (B, K, D); a scale (B, 1, 1) differs between clips."""
        cond = self.cond_proj(hidden)
        if null_hidden is None:
            return cond
        return cond + self.guidance_proj((guidance_scale - 1) * (hidden - null_hidden))

    def loss_of_path(
        self, path: Tensor, timesteps: Tensor, cond: Tensor, generator: torch.Generator, batch_mul: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Distances from a path's end of what comes out at M = ``batch_mul`` of its points, and their timesteps.

        Both (M B, K): each position has points of its own.

        Args:
            path: (S + 1, B, K, P), from pure noise to the clean patch.
            timesteps: (S,) of its points but the last.
            cond: (B, K, V), of :meth:`condition`.
            generator: of the choice of points.
            batch_mul: M.
        """
        shape = (batch_mul, *path.shape[1:3])
        number = torch.randint(len(timesteps), shape, generator=generator, device=generator.device)
        first = torch.rand(shape, generator=generator, device=generator.device) < FIRST_STEP_SHARE
        number = number.masked_fill(first, 0).to(path.device)
        points = path.gather(0, number[..., None].expand(*shape, path.shape[-1]))
        times = timesteps[number]
        return distance(self.clean(points, times, cond), path[-1]).flatten(0, 1), times.flatten(0, 1)

    def sample(self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators) -> Tensor:
        """Patches (B, K, P) in ``num_diffusion_steps`` steps; ``temperature`` scales all noise."""
        start = self.schedule(1, torch.device("cpu"), sampling.min_alpha_bar).timesteps.item()
        schedule = self.schedule(self.num_timesteps, hidden.device)
        cond = self.condition(hidden, null_hidden, sampling.guidance_scale)
        x = torch.zeros(*hidden.shape[:-1], self.patch_dim, device=hidden.device)
        for i, drawn in enumerate(draw_normals(sampling.num_diffusion_steps, x.shape, generator, hidden.device)):
            noise = sampling.temperature * drawn
            # Evenly from the start; timestep 0 is no use, where a patch is what it is.
            timestep = torch.tensor([start - start * i // sampling.num_diffusion_steps], device=hidden.device)
            x = self.clean(noise if i == 0 else add_noise(schedule, x, timestep, noise), timestep, cond)
        return x


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Of (..., P): (...,), the root of the mean square, and smooth at 0; its scale does not depend on P."""
    return ((a - b).square().mean(dim=-1) + SOFTNESS**2).sqrt() - SOFTNESS
