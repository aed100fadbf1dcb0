"""How a training is laid out on processors: precision and strategy by name. Parallelisation stands beside the model."""

import importlib.util
from collections.abc import Callable

import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy

from impact_pl.config import TrainerConfig
from impact_pl.precision import cpu_computes_bf16
from impact_pl.training.deepspeed import ZeroStrategy, clip_in_engine
from impact_pl.training.fsdp2 import FSDP2Strategy
from impact_pl.training.parallel import clip_gradients

ACCELERATORS = ("auto", "cpu", "gpu")
PRECISIONS = ("auto", "32-true", "bf16-mixed")


def check_devices(config: TrainerConfig) -> None:
    """Whether there are the processors and the strategy that ``trainer`` asks for.

    Raises:
        ValueError: an unknown accelerator or strategy, a missing package, no GPU, or fewer than ``trainer.devices``.
    """
    if config.strategy not in STRATEGIES:
        raise ValueError(f"trainer.strategy={config.strategy}: choose one of {', '.join(STRATEGIES)}")
    if config.strategy == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise ValueError(
            "trainer.strategy=deepspeed needs the package deepspeed: pip install 'impact-pl[deepspeed]', or choose "
            "trainer=fsdp2"
        )
    if config.accelerator not in ACCELERATORS:
        raise ValueError(f"trainer.accelerator={config.accelerator}: choose one of {', '.join(ACCELERATORS)}")
    gpus = torch.cuda.device_count() or int(torch.backends.mps.is_available())
    if config.accelerator == "gpu" and gpus == 0:
        raise ValueError("trainer.accelerator=gpu: no GPU is visible here; choose trainer=cpu")
    on_gpus = config.accelerator == "gpu" or (config.accelerator == "auto" and gpus > 0)
    if on_gpus and config.devices > gpus:
        raise ValueError(f"trainer.devices={config.devices}: {gpus} GPU(s) visible here; choose at most {gpus}")


def resolve_precision(config: TrainerConfig) -> str:
    """``auto`` is bf16-mixed where the processor computes in bf16, else 32-true. fp16 is not offered: it gives NaN.

    Raises:
        ValueError: an unknown name.
    """
    if config.precision not in PRECISIONS:
        raise ValueError(f"trainer.precision={config.precision}: choose one of {', '.join(PRECISIONS)}")
    if config.precision != "auto":
        return config.precision
    return "bf16-mixed" if _computes_bf16(config.accelerator) else "32-true"


def _computes_bf16(accelerator: str) -> bool:
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return accelerator in ("auto", "cpu") and cpu_computes_bf16()


def _auto(config: TrainerConfig) -> str | Strategy:
    return _ddp(config) if config.devices * config.num_nodes > 1 else "auto"


def _ddp(config: TrainerConfig) -> Strategy:
    return DDPStrategy(gradient_as_bucket_view=True)


def _fsdp2(config: TrainerConfig) -> Strategy:
    return FSDP2Strategy(config.devices * config.num_nodes)


def _deepspeed(config: TrainerConfig) -> Strategy:
    return ZeroStrategy(config.zero_stage, resolve_precision(config))


STRATEGIES: dict[str, Callable[[TrainerConfig], str | Strategy]] = {
    "auto": _auto,
    "ddp": _ddp,
    "fsdp2": _fsdp2,
    "deepspeed": _deepspeed,
}
CLIPPING = {"deepspeed": clip_in_engine}  # (model, optimizer, max_norm) -> norm; all others: parallel.clip_gradients


def build_strategy(config: TrainerConfig) -> str | Strategy:
    """Lightning's ``strategy`` argument for ``trainer.strategy``, which :func:`check_devices` has checked."""
    return STRATEGIES[config.strategy](config)


def clipping(config: TrainerConfig) -> Callable[..., float]:
    """How gradients are clipped under ``trainer.strategy``: (model, optimizer, max_norm) -> norm before clipping."""
    return CLIPPING.get(config.strategy, clip_gradients)
