"""Random numbers of a clip without PyTorch: those that its CPU generator gives for the same caption and seed.

A sound is then the same function of model, caption and seed wherever it is made. The page of ``impact export --web``
has the same generator in JavaScript.
"""

import hashlib

import numpy as np

BLOCK = 16  # PyTorch fills normal numbers in blocks of this size; fewer numbers are drawn in another way


class Noise:
    """The counterpart of a generator from :func:`impact_pl.randomness.clip_generators` (a Mersenne Twister).

    Args:
        seed: Seed of the clip.
        caption: Its caption.
        purpose: Distinguishes the streams of one clip.
    """

    def __init__(self, seed: int, caption: str, purpose: str) -> None:
        digest = hashlib.sha256(f"{purpose}\n{seed}\n{caption}".encode()).digest()
        self._bits = np.random.MT19937()
        np.random.RandomState(self._bits).seed(int.from_bytes(digest[:4], "little"))  # PyTorch uses 32 of its 64 bits

    def uniform(self, count: int) -> np.ndarray:
        """Draw float32 numbers (count,) in [0, 1), as ``torch.rand``."""
        return ((self._bits.random_raw(count) & 0xFFFFFF) / (1 << 24)).astype(np.float32)

    def normal(self, *shape: int) -> np.ndarray:
        """Draw standard normal float32 numbers, as ``torch.randn``: Box-Muller on blocks of 8 + 8 uniform numbers."""
        count = int(np.prod(shape))
        assert count >= BLOCK, f"{count} numbers"
        numbers = self.uniform(count)
        whole = count - count % BLOCK
        numbers[:whole] = _box_muller(numbers[:whole])
        if whole < count:  # PyTorch draws the last 16 once more
            numbers[-BLOCK:] = _box_muller(self.uniform(BLOCK))
        return numbers.reshape(shape)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    first, second = uniform.astype(np.float64).reshape(-1, 2, BLOCK // 2).transpose(1, 0, 2)
    radius, angle = np.sqrt(-2 * np.log(1 - first)), 2 * np.pi * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32).ravel()
