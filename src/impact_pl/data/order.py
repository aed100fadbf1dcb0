"""Which samples make up which batch: a pure function of (seed, position), so that any run can be continued exactly.

A training step's global batch is cut into *slots* of ``batch_size`` clips:

    slot = micro_batch * world_size + rank,    num_slots = accumulate_grad_batches * world_size

Order, noise, masks and dropout depend on (seed, step, slot) alone. So one process that accumulates two micro-batches,
and two processes that accumulate one, do the same training up to rounding. The samples form one endless stream: epoch
after epoch, each in its own permutation, without dropping a rest. Hence the whole data state is one number, the
samples consumed, and it stays valid when the number of processes changes.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler


def derive_seed(*parts: int) -> int:
    """A seed for a torch generator from integers such as (seed, step, slot); unlike sums, no two tuples collide."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class SampleStream:
    """The endless stream of sample indices; position p is sample ``permutation(seed, p // n)[p % n]``."""

    def __init__(self, num_samples: int, seed: int):
        assert num_samples > 0
        self.num_samples = num_samples
        self.seed = seed
        self._epoch = -1
        self._permutation: list[int] = []

    def __getitem__(self, position: int) -> int:
        epoch, offset = divmod(position, self.num_samples)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
            self._permutation = torch.randperm(self.num_samples, generator=generator).tolist()
            self._epoch = epoch
        return self._permutation[offset]


class SlotSampler(Sampler[list[int]]):
    """Batch sampler of one rank: the slots ``micro * world_size + rank`` of every step from ``start`` on.

    Its length is that of the whole training, because Lightning counts the batches done before a resume in; iteration
    begins at ``start``.

    Args:
        stream: the sample order.
        batch_size: clips a slot.
        start: samples consumed before the first step that is still to do.
        steps_done: optimizer steps before it.
        max_steps: optimizer steps of the whole training.
        rank, world_size, accumulate: as in the module's docstring.
    """

    def __init__(
        self,
        stream: SampleStream,
        batch_size: int,
        start: int,
        steps_done: int,
        max_steps: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ):
        self.stream, self.batch_size, self.start = stream, batch_size, start
        self.steps_done, self.max_steps = steps_done, max_steps
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate

    def __len__(self) -> int:
        return self.max_steps * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        position = self.start
        for _ in range(self.max_steps - self.steps_done):
            for micro in range(self.accumulate):
                first = position + (micro * self.world_size + self.rank) * self.batch_size
                yield [self.stream[p] for p in range(first, first + self.batch_size)]
            position += self.accumulate * self.world_size * self.batch_size


class ValidationSampler(Sampler[list[int]]):
    """Batches j = rank, rank + world_size, ... of the samples in order; every rank gets equally many.

    Where the batches do not divide, the last ranks see one again from the beginning (the module gives it no weight).
    """

    def __init__(self, num_samples: int, batch_size: int, rank: int = 0, world_size: int = 1):
        self.num_samples, self.batch_size, self.rank, self.world_size = num_samples, batch_size, rank, world_size
        self.num_batches = -(-num_samples // batch_size)

    def __len__(self) -> int:
        return -(-self.num_batches // self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        for i in range(len(self)):
            first = (i * self.world_size + self.rank) % self.num_batches * self.batch_size
            yield list(range(first, min(first + self.batch_size, self.num_samples)))
