"""The attention head: a diffusion head whose positions attend to each other while they are denoised.

Dimension key: B clips, K positions of a clip that are predicted together, V width of the head.
"""

import torch
from torch import Tensor, nn

from impact_pl.config import ModelConfig
from impact_pl.errors import UserError
from impact_pl.models.heads.diffusion import DiffusionHead
from impact_pl.models.transformer import LAYER_NORM_EPS, Attention, Mlp

HEAD_DIM = 64  # V / 64 attention heads, as in the paper's encoders (768 / 12, 1024 / 16)
MLP_RATIO = 4


class AdaLNAttentionBlock(nn.Module):
    """DiT block with adaLN-Zero (arXiv 2212.09748, Sec. 3.2): attention over the positions, then an MLP.

    Note: DiT has one condition vector per sample. Here each position has its own, from its hidden vector and the
    timestep.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS, elementwise_affine=False)
        self.attn = Attention(width, max(1, width // HEAD_DIM), 0.0, 0.0)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS, elementwise_affine=False)
        self.mlp = Mlp(width, MLP_RATIO * width, 0.0)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Apply the block to x (B, K, V), given cond (B, K, V) after its SiLU."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(cond).chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class AttentionHead(DiffusionHead):
    """Diffusion head that denoises the K positions of a clip jointly; otherwise identical to DiffusionHead.

    It has no position embeddings: the hidden vectors carry the positions, so their order does not matter.

    Raises:
        UserError: ``head_width`` is not a multiple of the attention heads' width, 64.
    """

    def __init__(self, config: ModelConfig, patch_dim: int) -> None:
        if config.head_width > HEAD_DIM and config.head_width % HEAD_DIM:
            raise UserError(
                f"model.head_width = {config.head_width}: the attention head needs a multiple of {HEAD_DIM}, or less."
            )
        super().__init__(config, patch_dim)

    def make_block(self, width: int) -> nn.Module:
        return AdaLNAttentionBlock(width)

    def draw_timesteps(self, rows: int, count: int, generator: torch.Generator) -> Tensor:
        """Draw timesteps (rows, count) int64, one for all positions of a clip, as in sampling."""
        drawn = torch.randint(self.num_timesteps, (rows, 1), generator=generator, device=generator.device)
        return drawn.expand(rows, count)
