"""The folder that an export writes and a runner reads: its files, and the schema of its config.json."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le

from impact_pl.config import DecodingConfig
from impact_pl.errors import UserError, shown
from impact_pl.files import STRICT, read_json

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
GRAPHS = ("text", "encoder", "head", "audio_decoder", "audio_encoder")
FORMAT = 1
DECODING_FIELDS = (  # of DecodingConfig, that a runner follows; the others are at SUPPORTED, or do not matter to it
    *("num_iterations", "num_diffusion_steps", "final_diffusion_steps", "guidance_scale", "guidance_schedule"),
    *("temperature", "min_alpha_bar", "max_rms", "reveal"),
)
SUPPORTED = {"order": ("random",), "solver": ("ancestral",), "reveal": ("cosine", "linear", "sqrt")}
Count = Annotated[int, Ge(1), Le(1 << 24)]


@dataclass
class Excitation:
    """What the audio decoder takes: noise (1, (M - 1) hop + n_fft), phases (1, num_bins), inputs (1, M/2, channels)."""

    __pydantic_config__ = STRICT

    hop: Count
    n_fft: Count
    num_bins: Count
    num_channels: Count


@dataclass
class StoredDecoding(DecodingConfig):
    """Schema of ``decoding``, of which only DECODING_FIELDS are there."""

    __pydantic_config__ = STRICT


@dataclass
class PortableConfig:
    """Schema of config.json: what the loop needs besides the graphs."""

    __pydantic_config__ = STRICT

    format: Annotated[int, Ge(FORMAT), Le(FORMAT)]
    sample_rate: Count
    samples_per_patch: Count
    max_patches: Count  # of the clips that the model was trained on
    patch_dim: Count
    text_length: Count
    num_timesteps: Count
    predicts_velocity: bool
    excitation: Excitation
    decode_context: Annotated[int, Ge(0), Le(1 << 24)]  # patches around a part that decoding it depends on
    decoding: StoredDecoding
    presets: dict[str, dict[str, Any]]

    @property
    def max_duration(self) -> float:
        """Length of the training clips, in seconds."""
        return self.max_patches * self.samples_per_patch / self.sample_rate


def read_config(folder: Path) -> PortableConfig:
    """Read the config.json of a folder.

    Raises:
        UserError: The folder is not an export, or not a complete one.
    """
    for name in (CONFIG, TOKENIZER, *(f"{graph}.onnx" for graph in GRAPHS)):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}: give a folder that `impact export MODEL FOLDER --onnx` wrote")
    return read_json(folder / CONFIG, PortableConfig, remedy="export the model again")


def check_supported(decoding: DecodingConfig) -> None:
    """Check that a runner can follow a decoding configuration.

    Raises:
        UserError: It cannot.
    """
    for name, choices in SUPPORTED.items():
        value = getattr(decoding, name)
        if value not in choices:
            raise UserError(f"{name} = {shown(value)} has no ONNX runner: choose {' or '.join(choices)}")
