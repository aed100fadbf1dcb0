"""IMPACT: text-to-audio by iterative mask-based parallel decoding over continuous audio latents.

    from impact_pl import ImpactPipeline

    pipeline = ImpactPipeline.from_pretrained()
    pipeline("a dog barks", duration=5, seed=1).save("dog.wav")

The public names are imported lazily from their modules, so ``import impact_pl`` does not load torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from impact_pl.audio import load_audio, save_audio
    from impact_pl.cli.experiment import load_experiment
    from impact_pl.codecs.base import AudioCodec
    from impact_pl.codecs.registry import load_codec
    from impact_pl.config import DecodingConfig, ModelConfig, TrainConfig
    from impact_pl.data.datamodule import LatentDataModule
    from impact_pl.errors import UserError
    from impact_pl.inference.generate import generate
    from impact_pl.inference.pipeline import ImpactPipeline
    from impact_pl.inference.sounds import GeneratedAudio
    from impact_pl.models.impact import Impact
    from impact_pl.text_encoders.base import TextEncoder
    from impact_pl.text_encoders.registry import load_text_encoder
    from impact_pl.training.distillation import Distillation
    from impact_pl.training.fit import train
    from impact_pl.training.modules import TextConditionalTraining, UnconditionalPretraining

_MODULES = {  # name -> the module that defines it
    "AudioCodec": "codecs.base",
    "DecodingConfig": "config",
    "Distillation": "training.distillation",
    "GeneratedAudio": "inference.sounds",
    "Impact": "models.impact",
    "ImpactPipeline": "inference.pipeline",
    "LatentDataModule": "data.datamodule",
    "ModelConfig": "config",
    "TextConditionalTraining": "training.modules",
    "TextEncoder": "text_encoders.base",
    "TrainConfig": "config",
    "UnconditionalPretraining": "training.modules",
    "UserError": "errors",
    "generate": "inference.generate",
    "load_audio": "audio",
    "load_codec": "codecs.registry",
    "load_experiment": "cli.experiment",
    "load_text_encoder": "text_encoders.registry",
    "save_audio": "audio",
    "train": "training.fit",
}
__all__ = [
    "AudioCodec",
    "DecodingConfig",
    "Distillation",
    "GeneratedAudio",
    "Impact",
    "ImpactPipeline",
    "LatentDataModule",
    "ModelConfig",
    "TextConditionalTraining",
    "TextEncoder",
    "TrainConfig",
    "UnconditionalPretraining",
    "UserError",
    "generate",
    "load_audio",
    "load_codec",
    "load_experiment",
    "load_text_encoder",
    "save_audio",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
