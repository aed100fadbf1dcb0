"""The consistency head: jumps from any point of its teacher's path to the end of the path in one step.

Dimension key: B clips, K positions, M points of one path, P numbers per patch, V width of the head; ``...`` is (B, K)
with optional leading dimensions.
"""

import torch
from torch import Tensor, nn

from impact_pl.config import ModelConfig
from impact_pl.models.heads.base import Sampling
from impact_pl.models.heads.diffusion import AdaLNHead
from impact_pl.randomness import Generators, draw_normals
from impact_pl.sampling.diffusion import add_noise

FIRST_STEP_SHARE = 0.5  # fraction of training points that are pure noise, where one-step sampling starts
SOFTNESS = 0.03  # distance below which the loss is quadratic (pseudo-Huber; arXiv 2310.14189, Sec. 3.3)


class ConsistencyHead(AdaLNHead):
    """Diffusion head network that outputs the clean patch which its teacher would reach from x_t.

    A sampler without noise in its steps (DDIM) is a deterministic function of its starting point. This head learns that
    function for all points of a path (consistency models, Song et al., arXiv 2303.01469). It learns from complete
    teacher paths (as arXiv 2101.02388 does) rather than from its own estimates, because a head is cheap enough to
    sample during training. One step from pure noise gives a sample. Further steps add noise to the result and continue
    (2303.01469, Alg. 1).

    Guidance is an input (arXiv 2210.03142, Sec. 3): the head receives the direction and scale of the guidance, and
    learns paths that the teacher sampled with guidance (:mod:`impact_pl.training.distillation`). One pass replaces two.

    Parameter names match the diffusion head's, so that a trained one can initialise it. Only ``guidance_proj`` is new,
    and ``final_proj`` differs because the teacher also predicts a variance. ``final_proj`` outputs a velocity, so that
    at the end of a path the clean patch equals x_t. ``model.prediction`` states what the teacher predicts.

    Note: arXiv 2605.00329 learns the distribution with the energy score, on an encoder whose hidden states are pulled
    towards the teacher's with a weight of about 1000. Here the encoder is the teacher's, which is the limit of that
    weight. The energy score gave worse results in our tests (docs/recipes.md).
    """

    teacher = "diffusion"
    own_weights = ("guidance_proj", "final_proj")

    def __init__(self, config: ModelConfig, patch_dim: int) -> None:
        super().__init__(config, patch_dim)
        self.guidance_proj = nn.Linear(config.dim, config.head_width, bias=False)
        self.final_proj = nn.Linear(config.head_width, patch_dim)

    def clean(self, noisy: Tensor, timesteps: Tensor, cond: Tensor) -> Tensor:
        """Predict clean patches (..., P) from noisy (..., P) at timesteps (...) or (1,), given :meth:`condition`."""
        schedule = self.schedule(self.num_timesteps, noisy.device)
        velocity = self.network(self.input_proj(noisy), timesteps, cond)
        signal, noise = schedule.sqrt_alpha_bars[timesteps], schedule.sqrt_one_minus_alpha_bars[timesteps]
        return signal[..., None] * noisy - noise[..., None] * velocity

    def condition(self, hidden: Tensor, null_hidden: Tensor | None, guidance_scale: float | Tensor) -> Tensor:
        """Combine both hidden vectors (B, K, D) into a condition (B, K, V).

        A scale of shape (B, 1, 1) differs per clip.
        """
        cond = self.cond_proj(hidden)
        if null_hidden is None:
            return cond
        return cond + self.guidance_proj((guidance_scale - 1) * (hidden - null_hidden))

    def loss_of_path(
        self, path: Tensor, timesteps: Tensor, cond: Tensor, generator: torch.Generator, batch_mul: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Compute the distance between the path's end and the prediction at M = ``batch_mul`` of its points.

        Args:
            path: (S + 1, B, K, P), from pure noise to the clean patch.
            timesteps: (S,), of all points except the last.
            cond: (B, K, V), from :meth:`condition`.
            generator: Source of the choice of points.
            batch_mul: M.

        Returns:
            Distances and timesteps, both (M B, K). Each position has its own points.
        """
        shape = (batch_mul, *path.shape[1:3])
        number = torch.randint(len(timesteps), shape, generator=generator, device=generator.device)
        first = torch.rand(shape, generator=generator, device=generator.device) < FIRST_STEP_SHARE
        number = number.masked_fill(first, 0).to(path.device)
        points = path.gather(0, number[..., None].expand(*shape, path.shape[-1]))
        times = timesteps[number]
        return distance(self.clean(points, times, cond), path[-1]).flatten(0, 1), times.flatten(0, 1)

    def sample(self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators) -> Tensor:
        """Sample patches (B, K, P) in ``num_diffusion_steps`` steps. ``temperature`` scales all noise."""
        start = self.schedule(1, torch.device("cpu"), sampling.min_alpha_bar).timesteps.item()
        schedule = self.schedule(self.num_timesteps, hidden.device)
        cond = self.condition(hidden, null_hidden, sampling.guidance_scale)
        x = torch.zeros(*hidden.shape[:-1], self.patch_dim, device=hidden.device)
        for i, drawn in enumerate(draw_normals(sampling.num_diffusion_steps, x.shape, generator, hidden.device)):
            noise = sampling.temperature * drawn
            # Evenly spaced from the start. Timestep 0 is excluded, because a patch does not change there.
            time = start - start * i // sampling.num_diffusion_steps
            timestep = torch.full(
                (1,), time, dtype=torch.int64, device=hidden.device
            )  # filled there, without an upload
            x = self.clean(noise if i == 0 else add_noise(schedule, x, timestep, noise), timestep, cond)
        return x


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Compute a smooth root-mean-square distance over P: (..., P) -> (...). Its scale does not depend on P."""
    return ((a - b).square().mean(dim=-1) + SOFTNESS**2).sqrt() - SOFTNESS
