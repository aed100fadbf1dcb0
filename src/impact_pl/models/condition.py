"""What the encoder sees of a batch's captions, with or without the positions where no text is (``model.text_padding``).

Dimensions: B clips, L text positions of the model, L' those that are there, K patches, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from impact_pl.masking import take

PADDINGS = ("learned", "masked")  # of model.text_padding
MULTIPLE = 8  # lengths are rounded up to it: few shapes, for CUDA graphs and compiled blocks


class Condition(NamedTuple):
    """Embedded captions.

    Attributes:
        states: (B, L', D).
        slots: (B, L') int64, at which of the model's L positions they are; None: at all of them, in order.
        mask: (B, L') bool, False where there is nothing, which nobody attends to; None: something everywhere.
    """

    states: Tensor
    slots: Tensor | None = None
    mask: Tensor | None = None

    def key_mask(self, num_patches: int) -> Tensor | None:
        """Which of [text; patches] can be attended to: (B, 1, 1, L' + K) bool, as attention takes it; None: all."""
        if self.mask is None:
            return None
        return F.pad(self.mask, (0, num_patches), value=True)[:, None, None]

    def to(self, dtype: torch.dtype) -> "Condition":
        """With states of another type."""
        return self._replace(states=self.states.to(dtype))

    def packed(self) -> "Condition":
        """The same without positions at which no clip has anything, as far as MULTIPLE allows.

        The host waits for the device, once, as lengths are shapes.
        """
        if self.mask is None:
            return self
        assert self.slots is None, "packed already"
        counts, full = self.mask.sum(dim=1), self.mask.shape[1]
        least, most = torch.stack([counts.min(), counts.max()]).tolist()
        length = min(-(-most // MULTIPLE) * MULTIPLE, full)
        slots = (~self.mask).int().argsort(dim=1, stable=True)[:, :length]
        mask = None if least == length else self.mask.gather(1, slots)
        return Condition(take(self.states, slots), slots, mask)


def concatenated(first: Condition, second: Condition) -> Condition:
    """The clips of both, neither of which is packed."""
    assert first.slots is second.slots is None, "packed already"
    states = torch.cat([first.states, second.states.to(first.states.dtype)])
    if first.mask is None or second.mask is None:
        return Condition(states)
    return Condition(states, mask=torch.cat([first.mask, second.mask]))
