"""Choose the samples of every batch: a pure function of (seed, position), so any run can be continued exactly.

A training step's global batch is cut into *slots* of ``batch_size`` clips:

    slot = micro_batch * world_size + rank,    num_slots = accumulate_grad_batches * world_size

Order, noise, masks and dropout depend on (seed, step, slot) alone. So one process that accumulates two micro-batches,
and two processes that accumulate one, do the same training up to rounding. The samples form one endless stream: epoch
after epoch, each in its own permutation, without dropping a rest. Hence the whole data state is one number, the
samples consumed, and it stays valid when the number of processes changes.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler


def derive_seed(*parts: int) -> int:
    """Derive a seed for a torch generator from integers such as (seed, step, slot), without the collisions of sums."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


class SampleStream:
    """The endless stream of sample indices: epoch after epoch, each in its own permutation.

    With ``block_shards`` = 0 an epoch is one permutation of all n samples. With K > 0 the epoch's shards are permuted,
    K consecutive ones form a *block*, and a block's samples are permuted together: at any time only K shards are read.
    Either way position p is a pure function of (seed, p).

    How well that shuffles, with s samples a shard and m = K s a block (m = n for the whole set): two neighbours of a
    shard are (m + 1) / 3 positions apart on average, and two clips of a batch (within one block) come from one shard
    with probability (s - 1) / (m - 1). For 10,000 shards of 256 (2.56 M clips) and K = 64 that is 5,461 positions and
    1.6 %, against 853,334 and 0.01 % for the whole set.

    Args:
        sizes: samples of each shard, in the order of the sample indices.
        seed: of all permutations.
        block_shards: K; 0 for the whole set.
    """

    def __init__(self, sizes: Sequence[int] | np.ndarray, seed: int, block_shards: int = 0):
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.first = np.concatenate([[0], np.cumsum(self.sizes)])  # sample index at which each shard begins
        self.num_samples = int(self.first[-1])
        assert self.num_samples > 0
        self.seed, self.block_shards = seed, block_shards
        self._epoch = -1
        self._block = (-1, -1)

    def __getitem__(self, position: int) -> int:
        epoch, offset = divmod(position, self.num_samples)
        number = self._locate(epoch, offset)
        if (epoch, number) != self._block:
            self._block = (epoch, number)
            self._permutation = self._permute(epoch, number)
        return int(self._permutation[offset - self._ends[number]])

    def next_shards(self, position: int) -> tuple[tuple[int, int], list[int]]:
        """((epoch, block) of ``position``, the shards of that block and of the one behind it, in order)."""
        epoch, offset = divmod(position, self.num_samples)
        number = self._locate(epoch, offset)
        is_last = number + 1 == len(self._blocks)
        following = self._shards_of_epoch(epoch + 1)[0] if is_last else self._blocks[number + 1]
        return (epoch, number), list(dict.fromkeys(self._blocks[number] + following))

    def _locate(self, epoch: int, offset: int) -> int:
        """The block of ``offset``, with the epoch's blocks at hand."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._blocks = self._shards_of_epoch(epoch)
            sizes = [self.sizes[block].sum() for block in self._blocks]
            self._ends = np.concatenate([[0], np.cumsum(sizes)])  # of each block, behind that of none
        return int(np.searchsorted(self._ends, offset, side="right")) - 1

    def _shards_of_epoch(self, epoch: int) -> list[list[int]]:
        """The shards of each block."""
        if not self.block_shards:
            return [list(range(len(self.sizes)))]
        order = _permutation(len(self.sizes), derive_seed(self.seed, epoch)).tolist()
        return [order[k : k + self.block_shards] for k in range(0, len(order), self.block_shards)]

    def _permute(self, epoch: int, number: int) -> np.ndarray:
        """The sample indices of a block, in their order."""
        if not self.block_shards:
            return _permutation(self.num_samples, derive_seed(self.seed, epoch))
        samples = np.concatenate([np.arange(self.first[k], self.first[k + 1]) for k in self._blocks[number]])
        # number + 1, for a seed from (a, b, 0) is that from (a, b), which the shards' permutation has
        return samples[_permutation(len(samples), derive_seed(self.seed, epoch, number + 1))]


def _permutation(count: int, seed: int) -> np.ndarray:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()


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
        prefetch: called with the shards of a block and of the next one whenever a block begins.
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
        prefetch: Callable[[list[int]], None] | None = None,
    ):
        self.stream, self.batch_size, self.start = stream, batch_size, start
        self.steps_done, self.max_steps = steps_done, max_steps
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate
        self.prefetch = prefetch

    def __len__(self) -> int:
        return self.max_steps * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        position, block = self.start, (-1, -1)
        for _ in range(self.max_steps - self.steps_done):
            if self.prefetch is not None:
                now, shards = self.stream.next_shards(position)
                if now != block:
                    block = now
                    self.prefetch(shards)
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
