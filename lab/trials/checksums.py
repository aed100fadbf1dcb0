"""Measure what checking every sample's CRC32 costs: the same random reads of warm shards with and without it.

    python -m lab.trials.checksums

Shards of random numbers that fit the shipped model, in a temporary folder. Checked and unchecked reads alternate; the
medians over the rounds are printed.
"""

import random
import statistics
import tempfile
import time
from pathlib import Path

from impact_pl.data.shards import LatentDataset
from impact_pl.models.spec import find_model, read_spec
from lab.benchmark.data import random_shards

CLIPS, FRAMES, ROUNDS = 1024, 256, 21


def measure(dataset: LatentDataset, order: list[int]) -> float:
    """Read the samples of ``order``; returns the processor's microseconds per sample."""
    start = time.process_time()
    for i in order:
        dataset[i]
    return (time.process_time() - start) / len(order) * 1e6


def main() -> None:
    spec = read_spec(find_model("builtin") / "config.json")
    with tempfile.TemporaryDirectory() as folder:
        random_shards(Path(folder), spec, FRAMES, CLIPS)
        checked, unchecked = (LatentDataset(Path(folder) / "train") for _ in range(2))
        unchecked.checksums = [None] * len(unchecked.checksums)
        size = sum(shard["bytes"] for shard in checked.index.shards) / CLIPS
        order = random.Random(0).sample(range(CLIPS), CLIPS)
        times = [(measure(checked, order), measure(unchecked, order)) for _ in range(ROUNDS)]
    with_crc, without = (statistics.median(way) for way in zip(*times[1:], strict=True))
    difference = statistics.median(a - b for a, b in times[1:])
    print(f"{size / 1000:.1f} kB per sample: {with_crc:.1f} us checked, {without:.1f} us unchecked: {difference:+.1f}")


if __name__ == "__main__":
    main()
