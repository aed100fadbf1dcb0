"""Approximate encoder for decoding that reuses results of earlier iterations.

Dimension key: B clips, N patches, S keys, n patches that became known since the last call, K requested positions, D
width.
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from impact_pl.models.condition import Condition
from impact_pl.models.latent_encoder import LatentEncoder, Stack
from impact_pl.models.transformer import Block
from impact_pl.sampling.masking import columns, take

Keys = tuple[Tensor, Tensor]  # keys and values of a block, each (B, S, D)


class ReusingEncoder:
    """A :class:`LatentEncoder` for one decoding that computes all positions in every ``period``-th call only.

    Other calls only compute new positions: patches that have become known (in both stages), and the requested masked
    positions (in the second stage). They attend to the last computed keys and values of all other positions. Text,
    older patches and masked positions that are not requested become stale. LazyMAR makes the same approximation: the
    features of most tokens hardly change from one iteration to the next.

    Note: LazyMAR selects the tokens to recompute by how much they change, and also reuses the guidance difference. Here
    the selection is fixed in advance, and guidance is always computed.
    """

    def __init__(self, encoder: LatentEncoder, period: int) -> None:
        self.encoder, self.period = encoder, period
        self.first: list[Keys] = []  # first stage: text and known patches, in order of arrival
        self.second: list[Keys] = []  # second stage: text and all patches
        self.patches = torch.empty(0)  # (B, N, D), known patches and mask embeddings, before neighbours and positions
        self.mask = torch.empty(0)  # (B, N), mask of the last call
        self.num_kept = self.age = 0  # visible patches of the last call; calls since the last full one

    def __call__(
        self, patches: Tensor, mask: Tensor, cond: Condition | None, positions: Tensor, num_kept: int
    ) -> Tensor:
        """Compute hidden vectors (B, K, D)."""
        self.age += 1
        if self.age >= self.period or mask.shape != self.mask.shape:  # the batch changes when guidance ends
            self.age = 0
            new = mask.int().argsort(dim=1, stable=True)[:, :num_kept]
            x = self._all(patches, new, cond, positions)
        else:
            new = (self.mask & ~mask).int().argsort(dim=1, stable=True, descending=True)[:, : num_kept - self.num_kept]
            x = self._new(patches, new, cond, positions)
        self.mask, self.num_kept = mask, num_kept
        return self.encoder.hidden(x, positions)

    def _all(self, patches: Tensor, kept: Tensor, cond: Condition | None, positions: Tensor) -> Tensor:
        encoder, written = self.encoder, lambda old, new: new
        first, second = ([()] * len(stack.blocks) for stack in (encoder.enc1, encoder.enc2))
        x = encoder.known(patches, kept, cond)
        x, self.first = _run(encoder.enc1, x, first, written, cond and cond.key_mask(kept.shape[1]))
        text, self.patches = encoder.filled(x, kept, patches.shape[1])
        x, queries = encoder.everywhere(text, self.patches, cond), positions + text.shape[1]
        x, self.second = _run(encoder.enc2, x, second, written, cond and cond.key_mask(patches.shape[1]), queries)
        return x

    def _new(self, patches: Tensor, new: Tensor, cond: Condition | None, positions: Tensor) -> Tensor:
        encoder, num_text = self.encoder, 0 if cond is None else cond.states.shape[1]
        x, self.first = _run(
            encoder.enc1,
            encoder.known(patches, new, None),
            self.first,
            lambda old, new: tuple(torch.cat(pair, dim=1) for pair in zip(old, new, strict=True)),
            cond and cond.key_mask(self.num_kept + new.shape[1]),
        )
        known = encoder.bridge(encoder.enc1.norm(x))  # (B, n, D)
        self.patches = self.patches.scatter(1, columns(new, known), known)
        computed = torch.cat([new, positions], dim=1)  # (B, n + K)
        x = take(encoder.local(self.patches), computed) + F.embedding(computed, encoder.enc2.patch_pos[0])
        places = computed + num_text
        queries = torch.arange(new.shape[1], places.shape[1], device=places.device).expand_as(positions)
        x, self.second = _run(
            encoder.enc2,
            x,
            self.second,
            lambda old, new: tuple(o.scatter(1, columns(places, o), n) for o, n in zip(old, new, strict=True)),
            cond and cond.key_mask(patches.shape[1]),
            queries,
        )
        return x


def _run(
    stack: Stack,
    x: Tensor,
    keys: list,
    write: Callable[[tuple, tuple], tuple],
    key_mask: Tensor | None,
    queries: Tensor | None = None,
) -> tuple[Tensor, list]:
    """Run the blocks over x (B, S', D), attending to the result of ``write`` on a block's old and new keys and values.

    Args:
        stack: The blocks.
        x: (B, S', D).
        keys: Stored keys and values of each block.
        write: (old, new) -> keys and values (B, S, D) to attend to.
        key_mask: (B, 1, 1, S) bool, True where attention may look; None: everywhere.
        queries: (B, K), positions of x at which the last block is computed; None: all.

    Returns:
        x (B, S', D), or (B, K, D) at ``queries``, and the updated keys and values of each block.
    """
    written = []
    for block, old in zip(cast(list[Block], list(stack.blocks)), keys, strict=True):
        q, *new = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
        written.append(write(old, tuple(new)))
        if queries is not None and len(written) == len(keys):
            x, q = take(x, queries), take(q, queries)
        k, v = written[-1]
        x = x + block.attn.attend(q, k, v, key_mask)
        x = x + block.mlp(block.norm2(x))
    return x, written
