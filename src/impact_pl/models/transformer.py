"""Transformer block with the parameter names of MAR (and timm), so that their checkpoints load.

Dimension key: B clips, S positions, K query positions, D width, A attention heads.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from impact_pl.errors import UserError
from impact_pl.sampling.masking import take

LAYER_NORM_EPS = 1e-6

# Where PyTorch prefers cuDNN attention (bf16 on H100 and later), cuDNN builds a plan for every combination of batch
# size, lengths and mask, which takes tens of milliseconds. Our lengths rarely repeat: they change with every iteration
# in decoding and with every batch in training. The other kernels need no plan. Without CUDA this has no effect.
torch.backends.cuda.enable_cudnn_sdp(False)


class QuickDropout(nn.Dropout):
    """``nn.Dropout`` that is faster on CPU: it uses 16 random bits per element, four elements per draw.

    PyTorch draws once per element: 56 ms for 7 million float32 numbers, against 14 ms here (two cores of a Zen 3).

    Note: ``p`` is rounded to a multiple of 1/65536.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout; the shape is unchanged."""
        dropped = round(self.p * 2**16)  # out of the 2**16 values
        is_quick = x.device.type == "cpu" and not self.inplace and not torch.compiler.is_compiling()
        if not (self.training and is_quick and 0 < dropped < 2**16):
            return super().forward(x)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = torch.ge(draws[: x.numel()].view(x.shape), dropped - 2**15, out=torch.empty_like(x))
        return x * kept.mul_(2**16 / (2**16 - dropped))


class Attention(nn.Module):
    """Multi-head self-attention."""

    scaled_dot_product_attention: Callable[..., Tensor] = staticmethod(F.scaled_dot_product_attention)

    def __init__(self, dim: int, num_heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise UserError(f"dim = {dim} is not a multiple of num_heads = {num_heads}.")
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.dropout = QuickDropout(dropout)

    def forward(self, x: Tensor, positions: Tensor | None = None, key_mask: Tensor | None = None) -> Tensor:
        """Attend from all positions, (B, S, D) -> (B, S, D), or from ``positions`` (B, K) only, -> (B, K, D).

        Keys are all S positions, or those where ``key_mask`` (B, 1, 1, S) bool is True.
        """
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if positions is not None:
            q = take(q, positions)
        return self.attend(q, k, v, key_mask)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attend from q (B, K, D) to k and v (B, S, D) where ``key_mask`` is True: (B, K, D)."""
        q, k, v = (rearrange(part, "b s (a d) -> b a s d", a=self.num_heads) for part in (q, k, v))
        dropout = self.attention_dropout if self.training else 0.0
        x = self.scaled_dot_product_attention(q, k, v, attn_mask=key_mask, dropout_p=dropout)  # (B, A, K, D/A)
        return self.dropout(self.proj(rearrange(x, "b a s d -> b s (a d)")))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU in between."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.activation: nn.Module = nn.GELU()
        self.dropout = QuickDropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP: (B, S, D) -> (B, S, D)."""
        return self.dropout(self.fc2(self.dropout(self.activation(self.fc1(x)))))


class Block(nn.Module):
    """Pre-norm transformer block (ViT, arXiv 2010.11929)."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float = 4.0, dropout: float = 0.0, attention_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads, dropout, attention_dropout)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)

    def forward(self, x: Tensor, positions: Tensor | None = None, key_mask: Tensor | None = None) -> Tensor:
        """Apply the block: (B, S, D) -> (B, S, D), or (B, K, D) at ``positions`` (B, K).

        ``key_mask`` is that of :class:`Attention`.
        """
        attended = self.attn(self.norm1(x), positions, key_mask)
        x = attended + (x if positions is None else take(x, positions))
        return x + self.mlp(self.norm2(x))
