"""Random numbers for a batch, from one generator for the whole batch or one per clip.

Training uses one generator per batch. Generation gives each clip its own, so that a sound does not depend on the other
clips of its batch. Numbers are drawn in float32 on the generator's device.

Dimension key: B rows, of which row i belongs to clip i modulo the number of clips.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor

from impact_pl.errors import UserError

NOISE_BLOCK = 4096  # rows of positional noise that share a generator
Generators = Generator | Sequence[Generator]  # for the batch, or one per clip


def clip_generators(seeds: Sequence[int], captions: Sequence[str | None], purpose: str) -> list[Generator]:
    """Create one CPU generator per clip, a function of its seed, its caption (None: no caption) and ``purpose`` only.

    The caption is included because clips with equal seeds would otherwise share all their noise, which makes a set of
    sounds less diverse than the model.
    """
    return [_seeded(f"{purpose}\n{seed}\n{caption or ''}") for seed, caption in zip(seeds, captions, strict=True)]


class PositionalNoise:
    """Noise as a function of its absolute position, so that a long sound can be computed in parts.

    Args:
        seeds: One seed per clip.
        captions: One caption per clip (None: no caption).
        purpose: Distinguishes streams of noise with the same seeds and captions.
        start: Waveform sample that the next computation begins at.
    """

    def __init__(self, seeds: Sequence[int], captions: Sequence[str | None], purpose: str, start: int = 0) -> None:
        self.seeds, self.captions, self.purpose, self.start = seeds, captions, purpose, start

    def at(self, start: int) -> "PositionalNoise":
        """Return the same noise for a computation that begins elsewhere."""
        return PositionalNoise(self.seeds, self.captions, self.purpose, start)

    def normal(self, what: str, first: int, count: int, width: int = 1) -> Tensor:
        """Draw standard normal numbers (B, count, width): rows ``first`` and following of the noise named ``what``."""
        begin, end = first // NOISE_BLOCK, (first + count - 1) // NOISE_BLOCK + 1
        blocks = []
        for block in range(begin, end):
            own = clip_generators(self.seeds, self.captions, f"{self.purpose} {what} {block}")
            blocks.append(torch.stack([torch.randn(NOISE_BLOCK, width, generator=one) for one in own]))
        return torch.cat(blocks, dim=1)[:, first - begin * NOISE_BLOCK :][:, :count]


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
    if not is_text(text):
        caption = text.split("\n", 2)[-1]
        raise UserError(f"the caption {caption!a} holds bytes that are not text: write it in UTF-8")
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def is_text(text: str) -> bool:
    """Check that a string has no surrogates, which stand for bytes of a command line that are not text."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
