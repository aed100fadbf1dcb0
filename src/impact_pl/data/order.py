"""Choose the samples of every batch by a pure function of (seed, position), so that any run can resume exactly.

A training step's global batch is divided into *slots* of ``batch_size`` clips:

    slot = micro_batch * world_size + rank,    num_slots = accumulate_grad_batches * world_size

Order, noise, masks and dropout depend on (seed, step, slot) only. One process that accumulates two micro-batches and
two processes that accumulate one therefore run the same training up to rounding. The samples form one endless stream of
epochs, each with its own permutation, without dropping a remainder. The complete data state is one number, the samples
consumed, which stays valid when the number of processes changes.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler


def derive_seed(*parts: int) -> int:
    """Derive a seed for a torch generator from integers such as (seed, step, slot), without the collisions of sums."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


class SampleStream:
    """Endless stream of sample indices: epoch after epoch, each with its own permutation.

    With ``block_shards`` = 0 an epoch is one permutation of all n samples. With K > 0 the epoch's shards are permuted,
    K consecutive shards form a *block*, and the samples of a block are permuted together, so only K shards are read at
    any time. In both cases position p is a pure function of (seed, p).

    Quality of the shuffle, with s samples per shard and m = K s per block (m = n for the complete set): two neighbours
    in a shard are (m + 1) / 3 positions apart on average, and two clips of a batch (within one block) come from the
    same shard with probability (s - 1) / (m - 1). For 10,000 shards of 256 (2.56 M clips) and K = 64 this means 5,461
    positions and 1.6 %, against 853,334 and 0.01 % for the complete set.

    Args:
        sizes: Samples per shard, in the order of the sample indices.
        seed: Seed of all permutations.
        block_shards: K; 0 for the complete set.
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
        """Return (epoch, block) of ``position``, and the shards of that block and of the next one, in order."""
        epoch, offset = divmod(position, self.num_samples)
        number = self._locate(epoch, offset)
        is_last = number + 1 == len(self._blocks)
        following = self._shards_of_epoch(epoch + 1)[0] if is_last else self._blocks[number + 1]
        return (epoch, number), list(dict.fromkeys(self._blocks[number] + following))

    def _locate(self, epoch: int, offset: int) -> int:
        """Find the block at ``offset``, caching the epoch's blocks."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._blocks = self._shards_of_epoch(epoch)
            sizes = [self.sizes[block].sum() for block in self._blocks]
            self._ends = np.concatenate([[0], np.cumsum(sizes)])  # end of each block, preceded by 0
        return int(np.searchsorted(self._ends, offset, side="right")) - 1

    def _shards_of_epoch(self, epoch: int) -> list[list[int]]:
        """Assign the epoch's shards to blocks."""
        if not self.block_shards:
            return [list(range(len(self.sizes)))]
        order = _permutation(len(self.sizes), derive_seed(self.seed, epoch)).tolist()
        return [order[k : k + self.block_shards] for k in range(0, len(order), self.block_shards)]

    def _permute(self, epoch: int, number: int) -> np.ndarray:
        """Permute the sample indices of a block."""
        if not self.block_shards:
            return _permutation(self.num_samples, derive_seed(self.seed, epoch))
        samples = np.concatenate([np.arange(self.first[k], self.first[k + 1]) for k in self._blocks[number]])
        # number + 1, because a seed from (a, b, 0) equals that from (a, b), which the permutation of shards uses
        return samples[_permutation(len(samples), derive_seed(self.seed, epoch, number + 1))]


class MixedStream:
    """Stream of two sets: of every n consecutive samples, ``round(n * share)`` (give or take one) are from the second.

    Indices of the second set follow those of the first, as in torch's ConcatDataset. Position p is a pure function of
    (seed, p) here too, because the number of samples that each set has given before p is.

    Args:
        first: Order of the first set.
        second: Order of the second set.
        share: Fraction of samples from the second set, in [0, 1).
    """

    def __init__(self, first: SampleStream, second: SampleStream, share: float):
        self.first, self.second, self.share = first, second, share

    def __getitem__(self, position: int) -> int:
        before = self._from_second(position)
        if self._from_second(position + 1) > before:
            return self.first.num_samples + self.second[before]
        return self.first[position - before]

    def next_shards(self, position: int) -> tuple[tuple[int, int], list[int]]:
        """Return what the first set's stream returns; the second one is read in place."""
        return self.first.next_shards(position - self._from_second(position))

    def _from_second(self, position: int) -> int:
        return math.floor(position * self.share + 1e-9)


def _permutation(count: int, seed: int) -> np.ndarray:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()


class SlotSampler(Sampler[list[int]]):
    """Batch sampler of one rank: the slots ``micro * world_size + rank`` of every step from ``start`` on.

    Its length is that of the complete training, because Lightning includes the batches before a resume in its count.
    Iteration begins at ``start``.

    Args:
        stream: The sample order.
        batch_size: Clips per slot.
        start: Samples consumed before the first remaining step.
        steps_done: Optimizer steps before it.
        max_steps: Optimizer steps of the complete training.
        rank, world_size, accumulate: See the module's docstring.
        prefetch: Called at the beginning of a block with its shards and those of the next one.
    """

    def __init__(
        self,
        stream: SampleStream | MixedStream,
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
    """Validation sampler: batches j = rank, rank + world_size, ... of the samples in order, equally many per rank.

    If the number of batches is not divisible, the last ranks repeat one from the beginning (the module gives it no
    weight).
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
