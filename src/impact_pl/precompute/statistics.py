"""Compute mean and standard deviation of a split's latents from sums stored with shards.

Dimension key: C latent channels.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from impact_pl.errors import UserError


@dataclass
class LatentSums:
    """Per-channel sums over raw latents z = mean + std * noise, sufficient for a split's statistics."""

    count: int  # latents per channel
    total: list[float]  # of z, (C,)
    squares: list[float]  # of z^2, (C,)

    @classmethod
    def of(cls, samples: list[Tensor], num_channels: int) -> "LatentSums":
        """Sum over the moments (2C, H, W) of samples."""
        total, squares = torch.zeros(2, num_channels, dtype=torch.float64)
        count = 0
        for moments in samples:
            mean, std = moments.double().chunk(2)  # (C, H, W) each
            total = total + mean.sum(dim=(1, 2))
            squares = squares + (mean**2 + std**2).sum(dim=(1, 2))  # E[z^2] = mean^2 + std^2
            count += mean[0].numel()
        return cls(count, total.tolist(), squares.tolist())

    @classmethod
    def sum_of(cls, parts: Iterable["LatentSums"], num_channels: int) -> "LatentSums":
        """Add up several parts in order."""
        whole = cls(0, [0.0] * num_channels, [0.0] * num_channels)
        for part in parts:
            whole.count += part.count
            whole.total = [a + b for a, b in zip(whole.total, part.total, strict=True)]
            whole.squares = [a + b for a, b in zip(whole.squares, part.squares, strict=True)]
        return whole


def latent_statistics(parts: Iterable[LatentSums]) -> tuple[list[float], float]:
    """Compute each channel's mean (C,) and one standard deviation over all channels.

    Note:
        One standard deviation keeps the channels' relative scale, which is the codec's choice: it is the root of the
        channels' mean variance about their own means.
    """
    parts = list(parts)
    count = sum(part.count for part in parts)
    lengths = {len(sums) for part in parts for sums in (part.total, part.squares)}
    if not count or len(lengths) != 1:
        raise UserError(f"no latents to measure: {count} of them, of {sorted(lengths)} channels")
    mean = torch.tensor([part.total for part in parts], dtype=torch.float64).sum(dim=0) / count  # (C,)
    squares = torch.tensor([part.squares for part in parts], dtype=torch.float64).sum(dim=0) / count
    std = (squares - mean**2).mean().clamp(min=0).sqrt().item()
    if std < 1e-8:
        raise UserError("the latents of the train split do not vary: is every clip the same?")
    return mean.tolist(), std
