"""LatentEncoder: map visible patches and text to a hidden vector per patch (IMPACT Sec. 3.1; MAE; MAR Sec. 3.3).

Dimension key: B clips, L text positions (0 without text), L' computed text positions, N patches, N_keep visible
patches, K requested positions, P numbers per patch, D width.
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
    """Transformer blocks with a final norm and learned position embeddings for their input.

    Text and patches have separate position parameters, so that weights trained without text load into a model with
    text.
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
        """Apply the blocks without the final norm: (B, S, D) -> (B, S, D), or (B, K, D) at ``positions`` (B, K).

        ``key_mask`` (B, 1, 1, S) bool is True where attention may look; None means everywhere.
        """
        *others, last = self.blocks
        for block in others:
            x = block(x, key_mask=key_mask)
        return last(x, positions, key_mask)

    def after_text(self, text: Tensor, slots: Tensor | None, patches: Tensor) -> Tensor:
        """Concatenate text (B, L', D), with the positions of its ``slots`` added, and patches (B, K, D)."""
        assert self.text_pos is not None
        places = self.text_pos if slots is None else F.embedding(slots, self.text_pos[0])
        return torch.cat([text + places, patches], dim=1)


class Neighbours(nn.Module):
    """Depthwise convolution over neighbouring patches, added to its input: (B, N, D) -> (B, N, D).

    Note: This is not in the paper (``model.local_kernel``). Attention with learned positions needs long training to
    find out which patches are neighbours. With the convolution, a masked patch sees the visible patches next to it from
    the first step.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise UserError(f"model.local_kernel = {kernel}: choose an odd number of patches, or 0 for none.")
        self.conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x.transpose(1, 2)).transpose(1, 2)


class LatentEncoder(nn.Module):
    """Encode [text; visible patches], insert mask embeddings, then encode [text; all patches]."""

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
        """Compute hidden vectors (B, K, D) for the head at ``positions`` (B, K) int64, or at all N patches if None.

        Args:
            patches: (B, N, P). The content of masked patches is never read.
            mask: (B, N) bool, True = to predict. Every row has the same count.
            cond: Condition of the B clips, or None for an encoder without text.
            positions: Positions at which the last block is computed.
            num_kept: N_keep, if known. None counts the mask, which synchronises host and device.

        Raises:
            UserError: The rows of the mask differ in their count, or there are more patches than the encoder has
                positions.
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
        """Assemble the first stage's input (B, L' + K, D) from text (if any) and the patches at ``kept`` (B, K)."""
        # F.embedding, because the gradient of plain indexing is summed in no fixed order on several CPU threads.
        x = self.patch_proj(take(patches, kept)) + F.embedding(kept, self.enc1.patch_pos[0])  # (B, K, D)
        return self.input_norm(x if cond is None else self.enc1.after_text(cond.states, cond.slots, x))

    def filled(self, x: Tensor, kept: Tensor, num_patches: int) -> tuple[Tensor, Tensor]:
        """Insert mask embeddings: split into text (B, L', D) and all patches (B, N, D), for :meth:`everywhere`.

        Args:
            x: Output (B, L' + K, D) of the first stage's blocks.
            kept: Indices (B, K) of the visible patches.
            num_patches: N.
        """
        x = self.bridge(self.enc1.norm(x))
        num_text = x.shape[1] - kept.shape[1]
        text, x = x[:, :num_text], x[:, num_text:]
        masked = self.mask_embed.to(x.dtype).repeat(x.shape[0], num_patches, 1)
        return text, masked.scatter(1, columns(kept, x), x)

    def everywhere(self, text: Tensor, patches: Tensor, cond: Condition | None) -> Tensor:
        """Assemble the input (B, L' + N, D) of the second stage from the output of :meth:`filled`."""
        x = self.local(patches) + self.enc2.patch_pos[:, : patches.shape[1]]
        return x if cond is None else self.enc2.after_text(text, cond.slots, x)

    def hidden(self, x: Tensor, positions: Tensor) -> Tensor:
        """Normalise the second stage's output (B, K, D) at ``positions`` (B, K) for the head."""
        return self.enc2.norm(x) + F.embedding(positions, self.diffusion_pos[0])


def _count_kept(mask: Tensor) -> int:
    counts = mask.sum(dim=1).tolist()
    if len(set(counts)) > 1:
        raise UserError(f"Masked patches per row {counts}: all rows of a mask must have the same count.")
    return mask.shape[1] - counts[0]
