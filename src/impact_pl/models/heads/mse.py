"""The regression head: predicts one patch per position, the conditional mean, as a baseline without a density."""

import torch
from torch import Tensor, nn

from impact_pl.config import ModelConfig
from impact_pl.models.heads.base import Head, ResidualBlock, Sampling, guided
from impact_pl.models.transformer import LAYER_NORM_EPS
from impact_pl.randomness import Generators


class MseHead(Head):
    """MLP of the diffusion head without noise and timestep, trained with the mean squared error.

    MAR (arXiv 2406.11838, Sec. 3.1) explains why this is not enough: the positions of a clip follow their joint
    distribution only if each position is sampled, and the best prediction under a squared error is the mean.
    """

    confidence = "none"

    def __init__(self, config: ModelConfig, patch_dim: int) -> None:
        super().__init__()
        width = config.head_width
        self.hidden_proj = nn.Linear(config.dim, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(config.head_depth))
        self.final_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.final_proj = nn.Linear(width, patch_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """Predict patches (B, K, P) from hidden (B, K, D)."""
        x = self.hidden_proj(hidden)
        for block in self.blocks:
            x = block(x)
        return self.final_proj(self.final_norm(x)).float()

    def loss(
        self, hidden: Tensor, target: Tensor, generator: torch.Generator, batch_mul: int = 1
    ) -> tuple[Tensor, None]:
        """Compute the mean squared error (B, K) per patch; nothing is sampled."""
        return (self(hidden) - target.float()).square().mean(dim=-1), None

    def sample(self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators) -> Tensor:
        """Return the prediction (B, K, P), which is deterministic.

        Guidance applies to it as it does to a predicted noise.
        """
        if null_hidden is None:
            return self(hidden)
        return guided(self(torch.cat([hidden, null_hidden])), sampling.guidance_scale)
