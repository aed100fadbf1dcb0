"""Measure what the schemas cost at start-up: files read through them, and by json.load.

    python -m lab.trials.schemas [--shards 1000] [--samples 256]

The shipped model's config.json, and an index.json of random entries. Both ways alternate; the medians over the rounds
are printed.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from impact_pl.data.index import INDEX_NAME, Latents, Producer, ShardEntry, ShardIndex
from impact_pl.models.spec import find_model, read_spec

ROUNDS = 7


def write_index(folder: Path, num_shards: int, samples: int) -> Path:
    """Write an index of as many shards as asked for, with offsets and checksums of every sample."""
    draw = random.Random(0)
    shards: list[ShardEntry] = [
        {
            "name": f"{number:06d}.tar",
            "num_samples": samples,
            "bytes": 81_920 * samples,
            "sha256": f"{draw.getrandbits(256):064x}",
            "offsets": {f"clip{number * samples + i:09d}": 81_920 * i for i in range(samples)},
            "crc32": [draw.getrandbits(32) for _ in range(samples)],
        }
        for number in range(num_shards)
    ]
    codec: Producer = {"name": "toy", "identity": "0", "sample_rate": 16_000, "samples_per_latent": 640}
    latents: Latents = {"shape": [64, 256, 1], "mean": [0.0] * 64, "std": 1.0}
    ShardIndex(codec, None, latents, 10.24, shards).save(folder)
    return folder / INDEX_NAME


def milliseconds(call: Callable[[], object]) -> float:
    """Time a call by the processor's clock, which does not count other processes."""
    start = time.process_time()
    call()
    return (time.process_time() - start) * 1e3


def compare(path: Path, read: Callable[[], object]) -> None:
    """Print the medians of both ways; the first reading, which builds the schema, is printed by itself."""
    first = milliseconds(read)
    times = [(milliseconds(read), milliseconds(lambda: json.loads(path.read_text()))) for _ in range(ROUNDS)]
    schema, plain = (statistics.median(way) for way in zip(*times, strict=True))
    size = path.stat().st_size / 1e3
    print(f"{path.name}, {size:.3g} kB: first {first:.1f} ms, then {schema:.2f} ms by its schema, {plain:.2f} ms plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=256, help="per shard")
    args = parser.parse_args()
    config = find_model("builtin") / "config.json"
    compare(config, lambda: read_spec(config))
    with tempfile.TemporaryDirectory() as folder:
        path = write_index(Path(folder), args.shards, args.samples)
        compare(path, lambda: ShardIndex.load(folder))


if __name__ == "__main__":
    main()
