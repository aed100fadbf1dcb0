"""Random numbers for a batch, from one generator for the whole batch or one per clip.

Training uses one generator per batch. Generation gives each clip its own, so that a sound does not depend on the other
clips of its batch. Numbers are drawn in float32 on the generator's device.

Dimension key: B rows, of which row i belongs to clip i modulo the number of clips.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor

Generators = Generator | Sequence[Generator]  # for the batch, or one per clip


def clip_generators(seeds: Sequence[int], captions: Sequence[str | None], purpose: str) -> list[Generator]:
    """Create one CPU generator per clip, a function of its seed, its caption (None: no caption) and ``purpose`` only.

    The caption is included because clips with equal seeds would otherwise share all their noise, which makes a set of
    sounds less diverse than the model.
    """
    return [_seeded(f"{purpose}\n{seed}\n{caption or ''}") for seed, caption in zip(seeds, captions, strict=True)]


def host_generator(generator: Generator) -> Generator:
    """Return ``generator`` if it is on the CPU, else a CPU generator seeded by one draw from it.

    Use it for numbers that the host needs: reading them from the device would synchronise.
    """
    if generator.device.type == "cpu":
        return generator
    torch.rand(1, generator=generator, device=generator.device)
    return _seeded(generator.get_state().numpy().tobytes().hex())


def draw_normal(shape: Sequence[int], generator: Generators, device: torch.device | str) -> Tensor:
    """Draw standard normal numbers (B, ...) on ``device``."""
    return _draw(torch.randn, shape, generator, device)


def draw_uniform(shape: Sequence[int], generator: Generators, device: torch.device | str) -> Tensor:
    """Draw uniform numbers (B, ...) in [0, 1) on ``device``."""
    return _draw(torch.rand, shape, generator, device)


def draw_gumbel(shape: Sequence[int], generator: Generators, device: torch.device | str) -> Tensor:
    """Draw standard Gumbel numbers (B, ...). The argmax of logits plus these is a categorical sample."""
    u = draw_uniform(shape, generator, device)
    return -torch.log(-torch.log(u.clamp(1e-20, 1 - 1e-7)))


def draw_normals(
    count: int, shape: Sequence[int], generator: Generators, device: torch.device | str
) -> Iterator[Tensor]:
    """Yield standard normal numbers (B, ...) ``count`` times; with a generator per clip they are drawn all at once."""
    if isinstance(generator, Generator):
        yield from (draw_normal(shape, generator, device) for _ in range(count))
        return
    rows, *rest = shape
    drawn = draw_normal((rows, count, *rest), generator, device)  # (B, count, ...)
    yield from drawn.transpose(0, 1).contiguous()


def _draw(
    function: Callable[..., Tensor], shape: Sequence[int], generator: Generators, device: torch.device | str
) -> Tensor:
    if isinstance(generator, Generator):
        return _move(function(shape, generator=generator, device=generator.device), device)
    rows, *rest = shape
    assert rows % len(generator) == 0, f"{rows} rows for {len(generator)} generators"
    own = (generator[row % len(generator)] for row in range(rows))
    return _move(torch.stack([function(rest, generator=one, device=one.device) for one in own]), device)


def _move(x: Tensor, device: torch.device | str) -> Tensor:
    """Copy ``x`` to ``device`` without blocking the host."""
    is_upload = x.device.type == "cpu" and torch.device(device).type == "cuda"
    return x.pin_memory().to(device, non_blocking=True) if is_upload else x.to(device)


def _seeded(text: str) -> Generator:
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
