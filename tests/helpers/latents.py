"""Small shards of random latents and text features."""

from pathlib import Path

import torch

from impact_pl.data.shards import ShardIndex, ShardWriter, describe_shard

CODEC = {"name": "builtin", "identity": "0123456789abcdef", "sample_rate": 16000, "samples_per_latent": 640}
TEXT_ENCODER = {"name": "minilm", "identity": "fedcba9876543210", "features": {"minilm": [6, 8]}}
SHAPE = (4, 8, 1)  # C, H, W


def write_split(folder: Path, num_samples: int, seed: int, text: bool = True, codec: dict = CODEC) -> None:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    channels, frames, width = SHAPE
    with ShardWriter(folder / "000000.tar") as writer:
        for i in range(num_samples):
            mean = torch.randn(channels, frames, width, generator=generator)
            moments = torch.cat([mean, torch.full_like(mean, 0.1)])
            features = {"minilm": torch.randn(3 + i % 3, 8, generator=generator)} if text else {}
            meta = {"id": f"clip{i}", "caption": f"sound {i}" if text else None}
            writer.add(f"clip{i:03d}", moments, features, {**meta, "source": "", "licence": "", "split": folder.name})
    latents = {"shape": list(SHAPE), "mean": [0.0] * channels, "std": 1.0}
    shards = [describe_shard(folder / "000000.tar")]
    ShardIndex(codec, TEXT_ENCODER if text else None, latents, frames * 0.04, shards).save(folder)


def write_latents(folder: Path, text: bool = True, codec: dict = CODEC, num_train: int = 11) -> Path:
    """``folder`` with train/ and valid/; 11 training clips, so that epochs and batches of 4 do not divide."""
    write_split(folder / "train", num_train, 1, text, codec)
    write_split(folder / "valid", 5, 2, text, codec)
    return folder
