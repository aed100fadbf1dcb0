"""Folders of small recordings, and a tiny model that can be tuned to them."""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from impact_pl.audio import save_audio
from impact_pl.config import DecodingConfig, ModelConfig
from impact_pl.models.impact import Impact
from impact_pl.models.spec import find_model, read_spec

RATE = 16_000


def hit(seed: int, seconds: float = 0.4) -> torch.Tensor:
    """A decaying tone with noise, different for every seed (S,)."""
    random = torch.Generator().manual_seed(seed)
    time = torch.arange(round(seconds * RATE)) / RATE
    steps = torch.rand(8, generator=random).repeat_interleave(-(-len(time) // 8))[: len(time)]
    tone = torch.sin(2 * torch.pi * (200 + 97 * seed) * time)
    return 0.3 * (0.2 + steps) * (tone + torch.randn(len(time), generator=random)).clamp(-1.5, 1.5)


def write_hits(folder: Path, count: int, first: int = 0, name: str = "snare_hit") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        save_audio(folder / f"{name}_{seed:02d}.wav", hit(seed), RATE)
    return folder


def write_tiny_model(
    folder: Path, captions: tuple[str, ...] = ("a dog barks", "rain falls"), num_frames: int = 16
) -> Path:
    """A model with random weights for the built-in codec and text encoder, of 0.64 s, and what it claims to make."""
    torch.manual_seed(0)
    shape = ModelConfig(
        dim=16, depth=1, num_heads=2, head_width=16, head_depth=1, patch_size=2, max_patches=16, dropout=0.0
    )
    quick = asdict(DecodingConfig(num_iterations=2, num_diffusion_steps=2, guidance_scale=2.0))
    decoding = {key: value for key, value in quick.items() if key not in ("engine", "precision")}
    spec = replace(
        read_spec(find_model("builtin") / "config.json"), model=shape, num_frames=num_frames, decoding=decoding
    )
    Impact(spec).save_pretrained(folder)
    (folder / "captions.txt").write_text("".join(f"{caption}\n" for caption in captions))
    return folder
