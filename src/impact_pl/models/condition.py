"""The text condition of a batch, packed to the positions that hold text.

Dimension key: B clips, L text positions of the model, L' computed text positions, K patches, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from impact_pl.sampling.masking import take


class Condition(NamedTuple):
    """Embedded captions of a batch.

    Attributes:
        states: Embeddings (B, L', D).
        slots: Positions (B, L') int64 of the states among the model's L; None if all L are there, in order.
        text_mask: (B, L') bool, True where attention may look; None if it may look everywhere.
        longest: No row of ``text_mask`` has more True; None if only the device knows.
    """

    states: Tensor
    slots: Tensor | None = None
    text_mask: Tensor | None = None
    longest: int | None = None

    def key_mask(self, num_patches: int) -> Tensor | None:
        """Return the attention mask over [text; patches] as (B, 1, 1, L' + K) bool, or None if nothing is masked."""
        if self.text_mask is None:
            return None
        return F.pad(self.text_mask, (0, num_patches), value=True)[:, None, None]

    def to(self, dtype: torch.dtype) -> "Condition":
        """Cast the states to ``dtype``."""
        return self._replace(states=self.states.to(dtype))


def packed(cond: Condition | None, multiple: int = 1) -> Condition | None:
    """Drop text positions that no caption of the batch uses: all of them, or those beyond ``cond.longest``.

    Without ``cond.longest`` this synchronises host and device once.

    Args:
        cond: A condition that is not packed yet.
        multiple: Round the number of positions up to a multiple of this, for callers that compile or capture per
            length.
    """
    if cond is None or cond.text_mask is None:
        return cond
    assert cond.slots is None, "packed already"
    counts, full = cond.text_mask.sum(dim=1), cond.text_mask.shape[1]
    if cond.longest is None:
        least, most = torch.stack([counts.min(), counts.max()]).tolist()
    else:
        least, most = 0, cond.longest
    length = min(-(-most // multiple) * multiple, full)
    slots = (~cond.text_mask).int().argsort(dim=1, stable=True)[:, :length]
    text_mask = None if least == length else cond.text_mask.gather(1, slots)  # without a mask, attention may be faster
    return Condition(take(cond.states, slots), slots, text_mask)


def concatenated(first: Condition, second: Condition) -> Condition:
    """Concatenate two conditions along the batch. Neither may be packed."""
    assert first.slots is second.slots is None, "packed already"
    states = torch.cat([first.states, second.states.to(first.states.dtype)])
    if first.text_mask is None:
        assert second.text_mask is None, "of one model"
        return Condition(states)
    assert second.text_mask is not None, "of one model"
    return Condition(states, text_mask=torch.cat([first.text_mask, second.text_mask]))
