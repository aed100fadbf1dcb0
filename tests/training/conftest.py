"""Tiny shards and configurations: everything here trains in about a second."""

from pathlib import Path

import pytest

from impact_pl.config import DataConfig, ModelConfig, OptimConfig, TrainConfig, TrainerConfig
from tests.helpers.latents import write_latents


@pytest.fixture(scope="session")
def random_latents(tmp_path_factory) -> Path:
    return write_latents(tmp_path_factory.mktemp("random_latents"))


@pytest.fixture
def config(tmp_path, random_latents) -> TrainConfig:
    """Stage 2 from scratch, with dropout in model and captions, on the CPU."""
    return TrainConfig(
        name="run",
        stage="text",
        runs_dir=str(tmp_path / "runs"),
        model=ModelConfig(
            dim=16, depth=1, num_heads=2, max_patches=8, head_width=16, head_depth=1, dropout=0.2, diffusion_batch_mul=2
        ),
        data=DataConfig(path=str(random_latents), batch_size=4, caption_dropout=0.3),
        trainer=TrainerConfig(
            accelerator="cpu",
            precision="32-true",
            max_steps=6,
            log_every_steps=1,
            validate_every_steps=4,
            checkpoint_every_steps=3,
        ),
        optim=OptimConfig(lr=1e-2, warmup_steps=3, ema_decay=0.9),
    )
