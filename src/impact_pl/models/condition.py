"""What the encoder sees of a batch's captions: the positions that are there (``model.text_padding``), and no others.

Dimensions: B clips, L text positions of the model, L' those that are computed, K patches, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from impact_pl.sampling.masking import take


class Condition(NamedTuple):
    """Embedded captions.

    Attributes:
        states: (B, L', D).
        slots: (B, L') int64, at which of the model's L positions they are; None: at all of them, in order.
        text_mask: (B, L') bool, False where there is nothing, which nobody attends to; None: something everywhere.
    """

    states: Tensor
    slots: Tensor | None = None
    text_mask: Tensor | None = None

    def key_mask(self, num_patches: int) -> Tensor | None:
        """Which of [text; patches] can be attended to: (B, 1, 1, L' + K) bool, as attention takes it; None: all."""
        if self.text_mask is None:
            return None
        return F.pad(self.text_mask, (0, num_patches), value=True)[:, None, None]

    def to(self, dtype: torch.dtype) -> "Condition":
        """With states of another type."""
        return self._replace(states=self.states.to(dtype))


def packed(cond: Condition | None, multiple: int = 1) -> Condition | None:
    """The same with as few positions as its longest caption needs; the host waits for the device once, to know.

    Args:
        cond: not packed yet.
        multiple: lengths are rounded up to it, where each length costs something of its own.
    """
    if cond is None or cond.text_mask is None:
        return cond
    assert cond.slots is None, "packed already"
    counts, full = cond.text_mask.sum(dim=1), cond.text_mask.shape[1]
    least, most = torch.stack([counts.min(), counts.max()]).tolist()
    length = min(-(-most // multiple) * multiple, full)
    slots = (~cond.text_mask).int().argsort(dim=1, stable=True)[:, :length]
    text_mask = None if least == length else cond.text_mask.gather(1, slots)  # without one, attention may be faster
    return Condition(take(cond.states, slots), slots, text_mask)


def concatenated(first: Condition, second: Condition) -> Condition:
    """The clips of both, neither of which is packed."""
    assert first.slots is second.slots is None, "packed already"
    states = torch.cat([first.states, second.states.to(first.states.dtype)])
    if first.text_mask is None:
        assert second.text_mask is None, "of one model"
        return Condition(states)
    assert second.text_mask is not None, "of one model"
    return Condition(states, text_mask=torch.cat([first.text_mask, second.text_mask]))
