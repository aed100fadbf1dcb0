"""LatentEncoder: from kept patches and text to a hidden vector at every patch (S1 Sec. 3.1; MAE, MAR Sec. 3.3).

Dimensions: B clips, L text positions (0 without text), L' of them that are there, N patches, N_keep kept ones,
K asked for, P numbers a patch, D.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impact_pl.config import ModelConfig
from impact_pl.errors import UserError
from impact_pl.models.condition import Condition
from impact_pl.models.transformer import LAYER_NORM_EPS, Block
from impact_pl.sampling.masking import columns, take


class Stack(nn.Module):
    """Transformer blocks with a final norm, and the learned positions of what goes in.

    Text and patches have separate position parameters, so that weights trained without text load into a model with it.
    """

    def __init__(self, config: ModelConfig, text_length: int) -> None:
        super().__init__()
        self.text_pos = nn.Parameter(torch.zeros(1, text_length, config.dim)) if text_length else None
        self.patch_pos = nn.Parameter(torch.zeros(1, config.max_patches, config.dim))
        self.blocks = nn.ModuleList(
            Block(config.dim, config.num_heads, config.mlp_ratio, config.dropout, config.attention_dropout)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor, positions: Tensor | None = None, key_mask: Tensor | None = None) -> Tensor:
        """Blocks alone, without the final norm: (B, S, D) -> (B, S, D), or (B, K, D) at ``positions`` (B, K).

        ``key_mask`` (B, 1, 1, S) bool is True where there is something; None: everywhere.
        """
        *others, last = self.blocks
        for block in others:
            x = block(x, key_mask=key_mask)
        return last(x, positions, key_mask)

    def after_text(self, text: Tensor, slots: Tensor | None, patches: Tensor) -> Tensor:
        """Text (B, L', D) with the positions of its ``slots``, then patches (B, K, D) that have theirs."""
        assert self.text_pos is not None
        places = self.text_pos if slots is None else F.embedding(slots, self.text_pos[0])
        return torch.cat([text + places, patches], dim=1)


class Neighbours(nn.Module):
    """Adds to every patch a weighted sum of its neighbours, each channel by itself: (B, N, D) -> (B, N, D).

    Not in the paper (``model.local_kernel``). Attention over learned positions has to find out which patches are
    neighbours, which takes long training; a masked patch sees the kept ones beside it here from the first step.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise UserError(f"model.local_kernel = {kernel}: choose an odd number of patches, or 0 for none.")
        self.conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x.transpose(1, 2)).transpose(1, 2)


class LatentEncoder(nn.Module):
    """Enc1 sees [text; kept patches]; mask embeddings are re-inserted; Enc2 sees [text; all patches]."""

    def __init__(self, config: ModelConfig, patch_dim: int, text_length: int) -> None:
        super().__init__()
        self.max_patches = config.max_patches
        self.text_length = text_length
        self.patch_proj = nn.Linear(patch_dim, config.dim)
        self.input_norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.enc1 = Stack(config, text_length)
        self.bridge = nn.Linear(config.dim, config.dim)
        self.mask_embed = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.local = Neighbours(config.dim, config.local_kernel) if config.local_kernel else nn.Identity()
        self.enc2 = Stack(config, text_length)
        self.diffusion_pos = nn.Parameter(torch.zeros(1, config.max_patches, config.dim))

    def forward(
        self,
        patches: Tensor,
        mask: Tensor,
        cond: Condition | None,
        positions: Tensor | None = None,
        num_kept: int | None = None,
    ) -> Tensor:
        """Hidden vectors (B, K, D) for the head at ``positions`` (B, K) int64; None: at all N patches.

        Args:
            patches: (B, N, P); what stands at masked patches is never read.
            mask: (B, N) bool, True = to predict; every row with the same count.
            cond: of B clips, or None when the encoder has no text.
            positions: the last block is computed there only.
            num_kept: N_keep, where it is known; None counts, for which the host waits for the device.

        Raises:
            ValueError: rows of the mask differ in their count; more patches than the encoder has positions for.
        """
        num_patches = patches.shape[1]
        assert (cond is None) == (self.text_length == 0), "cond is given exactly when the encoder has text positions"
        if num_patches > self.max_patches:
            raise UserError(
                f"{num_patches} patches, but this model has positions for {self.max_patches}: shorten the clip, or "
                f"train with model.max_patches={num_patches}."
            )
        if num_kept is None:
            num_kept = _count_kept(mask)
        kept = mask.int().argsort(dim=1, stable=True)[:, :num_kept]  # (B, N_keep) ascending

        x = self.enc1(self.known(patches, kept, cond), key_mask=cond and cond.key_mask(num_kept))
        text, x = self.filled(x, kept, num_patches)
        x, num_text = self.everywhere(text, x, cond), text.shape[1]
        key_mask = cond and cond.key_mask(num_patches)
        if positions is None:
            x = self.enc2(x, key_mask=key_mask)[:, num_text:]  # (B, N, D)
            return self.enc2.norm(x) + self.diffusion_pos[:, :num_patches]
        return self.hidden(self.enc2(x, positions + num_text, key_mask), positions)

    def known(self, patches: Tensor, kept: Tensor, cond: Condition | None) -> Tensor:
        """What Enc1 gets, (B, L' + K, D): text, unless ``cond`` is None, and patches at ``kept`` (B, K)."""
        # F.embedding: the gradient of plain indexing adds up in no fixed order on several threads of a CPU.
        x = self.patch_proj(take(patches, kept)) + F.embedding(kept, self.enc1.patch_pos[0])  # (B, K, D)
        return self.input_norm(x if cond is None else self.enc1.after_text(cond.states, cond.slots, x))

    def filled(self, x: Tensor, kept: Tensor, num_patches: int) -> tuple[Tensor, Tensor]:
        """Text (B, L', D) and all patches (B, N, D), mask embeddings among them, for :meth:`everywhere`.

        Args:
            x: what Enc1's blocks give, (B, L' + K, D) for patches at ``kept`` (B, K).
            kept: (B, K).
            num_patches: N.
        """
        x = self.bridge(self.enc1.norm(x))
        num_text = x.shape[1] - kept.shape[1]
        text, x = x[:, :num_text], x[:, num_text:]
        masked = self.mask_embed.to(x.dtype).repeat(len(x), num_patches, 1)
        return text, masked.scatter(1, columns(kept, x), x)

    def everywhere(self, text: Tensor, patches: Tensor, cond: Condition | None) -> Tensor:
        """What Enc2 gets, (B, L' + N, D), from what :meth:`filled` gives."""
        x = self.local(patches) + self.enc2.patch_pos[:, : patches.shape[1]]
        return x if cond is None else self.enc2.after_text(text, cond.slots, x)

    def hidden(self, x: Tensor, positions: Tensor) -> Tensor:
        """For the head, from what Enc2's blocks give (B, K, D) at ``positions`` (B, K)."""
        return self.enc2.norm(x) + F.embedding(positions, self.diffusion_pos[0])


def _count_kept(mask: Tensor) -> int:
    counts = mask.sum(dim=1).tolist()
    if len(set(counts)) > 1:
        raise UserError(f"Masked patches per row {counts}: all rows of a mask must have the same count.")
    return mask.shape[1] - counts[0]
