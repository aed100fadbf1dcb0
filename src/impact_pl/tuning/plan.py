"""Decide how long and how fast to tune, from the amount of data, the model's size and the time that there is."""

import math
import time
from dataclasses import dataclass

import torch

from impact_pl.config import OptimConfig
from impact_pl.files import STRICT
from impact_pl.models.impact import Impact
from impact_pl.training.optim import build_optimizer

BATCH_SIZE = 8
REPLAY_SHARE = 0.25
PASSES = 120  # over the own clips; the lowest held-out loss decides which step is kept
FEWEST_STEPS, MOST_STEPS = 200, 20_000
LEARNING_RATE = 3e-4  # for a model of width 256 and 100 clips or more
REFERENCE_DIM, REFERENCE_CLIPS = 256, 100
LOWEST_FACTOR = 0.3
LORA_FACTOR = 5.0
NUM_VALIDATIONS = 20
PATIENCE = 5  # validations without a lower loss
TIMED_STEPS = 3


@dataclass
class Plan:
    """Settings of a tuning that depend on data, model and machine. Decided once, so that resuming keeps them."""

    __pydantic_config__ = STRICT

    steps: int
    lr: float
    seconds_per_step: float
    replay_share: float = REPLAY_SHARE
    batch_size: int = BATCH_SIZE

    @property
    def warmup_steps(self) -> int:
        return min(50, self.steps // 10)

    @property
    def decay_steps(self) -> int:
        """The second half, as in the shipped model's training."""
        return self.steps // 2

    @property
    def validate_every(self) -> int:
        return max(1, self.steps // NUM_VALIDATIONS)


def make_plan(
    num_clips: int,
    dim: int,
    seconds_per_step: float,
    seconds: float,
    replay_share: float,
    steps: int | None = None,
    lora: bool = False,
) -> Plan:
    """Derive the number of steps and the learning rate.

    Every own clip is seen ``PASSES`` times, unless that takes more than ``seconds``. Few clips and wide models get a
    lower learning rate: in proportion to 1 / width, and to the square root of the clips below a hundred.

    Args:
        num_clips: Own training clips.
        dim: Width of the model.
        seconds_per_step: As measured.
        seconds: Time for the training.
        replay_share: Fraction of a batch that is not own clips.
        steps: Overrides the derived number.
        lora: Train adapters, which need a higher learning rate.
    """
    own = BATCH_SIZE * (1 - replay_share)
    wanted = min(max(FEWEST_STEPS, math.ceil(PASSES * num_clips / own)), MOST_STEPS)
    affordable = max(1, int(seconds / seconds_per_step))
    few = max(LOWEST_FACTOR, min(1.0, math.sqrt(num_clips / REFERENCE_CLIPS)))
    lr = LEARNING_RATE * min(1.0, REFERENCE_DIM / dim) * few * (LORA_FACTOR if lora else 1.0)
    return Plan(steps or min(wanted, affordable), float(f"{lr:.2g}"), round(seconds_per_step, 4), replay_share)


def time_step(model: Impact, num_frames: int, device: str) -> float:
    """Measure the seconds of a training step without text, on a copy of the weights' shape."""
    torch.manual_seed(0)
    trained = Impact(model.spec).to(device).train()
    optimizer = build_optimizer(trained, OptimConfig())
    shape = (BATCH_SIZE, model.spec.latent_channels, num_frames, model.spec.latent_width)
    generator = torch.Generator(device).manual_seed(0)
    latents = torch.randn(shape, generator=generator, device=device)
    times = []
    for _ in range(TIMED_STEPS + 1):
        begun = time.perf_counter()
        trained.loss(latents, None, generator).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return sum(times[1:]) / TIMED_STEPS  # the first allocates
