"""Random numbers of a batch: from one generator for the whole batch, or from one generator per clip.

Training draws a batch from one generator. Generation gives each clip its own, so that a sound does not depend on the
other clips of its batch. Numbers are drawn in float32, where the generator lives.

Dimensions: B rows, of which row i belongs to clip i modulo the number of clips.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor

Generators = Generator | Sequence[Generator]  # of a whole batch, or one per clip


def clip_generators(seeds: Sequence[int], captions: Sequence[str | None], purpose: str) -> list[Generator]:
    """One CPU generator per clip, a function of its seed, its caption (None: no caption) and ``purpose`` alone.

    The caption is hashed into it because clips of equal seed would share all their noise otherwise, and a set of sounds
    that share their noise is less diverse than the model.
    """
    return [_seeded(f"{purpose}\n{seed}\n{caption or ''}") for seed, caption in zip(seeds, captions, strict=True)]


def host_generator(generator: Generator) -> Generator:
    """``generator`` if it is on the CPU; else a CPU generator that follows from its state, which moves on by a draw.

    For the few numbers that the host itself needs: reading them from the device would wait for it.
    """
    if generator.device.type == "cpu":
        return generator
    torch.rand(1, generator=generator, device=generator.device)
    return _seeded(generator.get_state().numpy().tobytes().hex())


def draw_normal(shape: Sequence[int], generator: Generators, device: torch.device | str) -> Tensor:
    """Standard normal numbers (B, ...) on ``device``."""
    return _draw(torch.randn, shape, generator, device)


def draw_uniform(shape: Sequence[int], generator: Generators, device: torch.device | str) -> Tensor:
    """Uniform numbers (B, ...) in [0, 1) on ``device``."""
    return _draw(torch.rand, shape, generator, device)


def draw_gumbel(shape: Sequence[int], generator: Generators, device: torch.device | str) -> Tensor:
    """Standard Gumbel numbers (B, ...): the argmax of logits plus these is a categorical draw."""
    u = draw_uniform(shape, generator, device)
    return -torch.log(-torch.log(u.clamp(1e-20, 1 - 1e-7)))


def draw_normals(
    count: int, shape: Sequence[int], generator: Generators, device: torch.device | str
) -> Iterator[Tensor]:
    """``count`` times standard normal numbers (B, ...), for a loop: all at once with a generator per clip."""
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
    """``x`` on ``device``; the host goes on while a GPU copies."""
    is_upload = x.device.type == "cpu" and torch.device(device).type == "cuda"
    return x.pin_memory().to(device, non_blocking=True) if is_upload else x.to(device)


def _seeded(text: str) -> Generator:
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
