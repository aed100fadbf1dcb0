"""Masking: mask ratios for training, and random orders.

Dimension key: B clips, N patches. A mask (B, N) is True where a patch is to be predicted.
"""

import math

import torch
from torch import Tensor

from impact_pl.config import MaskRatioConfig
from impact_pl.errors import UserError
from impact_pl.randomness import Generators, draw_uniform, host_generator


def draw_mask(
    config: MaskRatioConfig, batch: int, num_frames: int, width: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, int]:
    """Draw an order (B, N) of the patches, and the number of patches at its beginning to mask in training.

    A batch is masked in one way and by one fraction, because the encoder takes the same number of patches per clip.

    Args:
        config: Distribution of the masks.
        batch: B.
        num_frames: Frames of patches; N = num_frames * width.
        width: Patches per frame.
        generator: Source of the mask.
        device: Device of the order.
    """
    if config.span_share and _uniform(generator) < config.span_share:
        length = num_masked(num_frames, draw_span_ratio(config, generator))
        return span_order(batch, num_frames, length, width, generator, device), length * width
    mask_ratio = draw_mask_ratio(config, generator)
    order = random_order(batch, num_frames * width, generator, device)
    return order, num_masked(num_frames * width, mask_ratio)


def draw_span_ratio(config: MaskRatioConfig, generator: torch.Generator) -> float:
    """Draw the fraction of a clip that one span masks."""
    low, high = config.span_low, config.span_high
    if not 0 < low <= high <= 1:
        raise UserError(f"mask_ratio.span_low = {low}, span_high = {high}: need 0 < span_low <= span_high <= 1.")
    return low + (high - low) * _uniform(generator)


def _uniform(generator: torch.Generator) -> float:
    return torch.rand(1, generator=host_generator(generator), dtype=torch.float64).item()


def draw_mask_ratio(config: MaskRatioConfig, generator: torch.Generator) -> float:
    """Draw the fraction of patches to mask in a batch: fixed (IMPACT), or MAR's normal around 1 truncated to [low, 1].

    The truncated normal is drawn by its inverse CDF: 1 + std Phi^-1(Phi(a) + u (1/2 - Phi(a))), a = (low - 1) / std.
    """
    if config.kind == "fixed":
        if not 0 < config.value <= 1:
            raise UserError(f"mask_ratio.value = {config.value}: choose a fraction above 0 and at most 1.")
        return config.value
    if config.kind != "truncated_normal":
        raise UserError(f"mask_ratio.kind = {config.kind!r}: choose truncated_normal or fixed.")
    if not (0 <= config.low < 1 and config.std > 0):
        raise UserError(f"mask_ratio.low = {config.low}, std = {config.std}: low must be in [0, 1), std above 0.")
    u = torch.rand(1, generator=host_generator(generator), dtype=torch.float64)
    tail = torch.special.ndtr(torch.tensor([(config.low - 1) / config.std], dtype=torch.float64))
    return 1 + config.std * torch.special.ndtri(tail + u * (0.5 - tail)).item()


def num_masked(num_patches: int, mask_ratio: float) -> int:
    """Compute ceil(N ratio), at least 1 (MAR). A small constant absorbs rounding errors of integer products."""
    return min(num_patches, max(1, math.ceil(num_patches * mask_ratio - 1e-9)))


def random_order(batch: int, num_patches: int, generator: Generators, device: torch.device | str) -> Tensor:
    """Draw a random permutation of the patches per clip, (B, N)."""
    return draw_uniform((batch, num_patches), generator, device).argsort(dim=1)


def span_order(
    batch: int, num_frames: int, length: int, width: int, generator: Generators, device: torch.device | str
) -> Tensor:
    """Draw an order (B, N) per clip that begins with the patches of ``length`` consecutive frames, at a random place.

    Both the patches of the span and the others are in random order.
    """
    starts = (draw_uniform((batch, 1), generator, device) * (num_frames - length + 1)).long()  # (B, 1)
    frame = torch.arange(num_frames, device=device).repeat_interleave(width)  # (N,)
    inside = (frame >= starts) & (frame < starts + length)  # (B, N)
    return (draw_uniform(inside.shape, generator, device) - inside.float()).argsort(dim=1)


def order_of_masked(mask: Tensor, count: int, generator: Generators) -> Tensor:
    """Draw a random order (B, count) of the masked patches of each clip; ``mask`` (B, N) has ``count`` per row."""
    order = random_order(mask.shape[0], mask.shape[1], generator, mask.device)
    is_masked = mask.gather(1, order).int()
    return order.gather(1, is_masked.argsort(dim=1, stable=True, descending=True)[:, :count])


def mask_from_order(order: Tensor, count: int) -> Tensor:
    """Mask the first ``count`` patches of each order (B, N). A smaller count gives a subset."""
    mask = torch.zeros_like(order, dtype=torch.bool)
    return mask.scatter(1, order[:, :count], True)


def columns(positions: Tensor, x: Tensor) -> Tensor:
    """Expand positions (B, K) to (B, K, D), the index for gather and scatter along dimension 1 of x (B, N, D)."""
    return positions[..., None].expand(-1, -1, x.shape[-1])


def take(x: Tensor, positions: Tensor) -> Tensor:
    """Gather the rows of x (B, N, D) at positions (B, K): (B, K, D)."""
    return x.gather(1, columns(positions, x))
