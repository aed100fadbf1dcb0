"""The specification that rebuilds a model, and config.json, the file that stores it."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, MaxLen

from impact_pl.config import DecodingConfig, ModelConfig
from impact_pl.errors import UserError
from impact_pl.files import STRICT, parse_json, read_json
from impact_pl.hub import HUB, model_folder
from impact_pl.partial import write_whole

BUILTIN = "builtin"  # name of the model that ships with the package
BUILTIN_FOLDER = Path(__file__).parents[1] / "assets" / "model"
FILES = ("config.json", "model.safetensors")


def find_model(name_or_path: str | Path) -> Path:
    """Resolve a model to its folder: ``builtin``, a path, or ``hub:ID`` for a repository on the Hugging Face hub.

    Raises:
        UserError: This installation has no built-in model, or the repository cannot be downloaded.
    """
    name = str(name_or_path)
    if name.startswith(HUB):
        return model_folder(name, FILES)
    if name != BUILTIN:
        return Path(name_or_path)
    missing = [name for name in FILES if not (BUILTIN_FOLDER / name).is_file()]
    if missing:
        raise UserError(
            f"this installation has no built-in model ({BUILTIN_FOLDER} lacks {' and '.join(missing)}): name the "
            "folder of another with --model, such as runs/NAME/model, which impact train writes when it finishes"
        )
    return BUILTIN_FOLDER


FORMAT = 1  # format version of a saved model folder
REMEDY = "export the model again"
MAX_RATE = 1 << 24
SIZED_HEADS = ("diffusion", "consistency", "mse")  # built from head_depth blocks of width head_width
Size = Annotated[int, Ge(1), Le(1 << 16)]


@dataclass
class ImpactSpec:
    """Everything needed to rebuild a model and to decide whether data fits it."""

    __pydantic_config__ = STRICT

    model: ModelConfig
    latent_channels: Size
    latent_width: Size
    latent_mean: Annotated[list[float], MaxLen(1 << 16)]  # (C,), means of the codec's raw latents
    latent_std: Annotated[float, Gt(0)]  # a scalar, so that the codec decides the relative scale of its channels
    text_features: dict[str, tuple[Size, Size]] = dataclasses.field(default_factory=dict)  # name -> (L_i, d_i)
    codec: dict = dataclasses.field(default_factory=dict)  # name, identity, sample_rate, samples_per_latent
    text_encoder: dict[str, Any] | None = None  # name, identity
    num_frames: Annotated[int, Ge(0), Le(1 << 24)] = 0  # H of the training clips; 0: unknown
    decoding: dict = dataclasses.field(default_factory=dict)  # DecodingConfig fields, from `decoding` in training

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Frames and width of a patch: square, unless the latents are narrower."""
        return self.model.patch_size, min(self.model.patch_size, self.latent_width)

    @property
    def own_decoding(self) -> DecodingConfig:
        """Decoding settings stored with this model, the default for generation."""
        return DecodingConfig(**self.decoding)

    @property
    def text_length(self) -> int:
        """L, summed over all text features."""
        return sum(length for length, _ in self.text_features.values())

    @property
    def num_padding(self) -> int:
        """Maximum number of attended positions without text: ``model.text_padding``, or L if that is -1."""
        padding = self.model.text_padding
        return self.text_length if padding < 0 else min(padding, self.text_length)


@dataclass
class SpecFile(ImpactSpec):
    """Schema of a model folder's config.json."""

    format: Annotated[int, Ge(FORMAT), Le(FORMAT)] = FORMAT
    weights_sha256: str | None = None  # of model.safetensors; None in folders of earlier versions


@dataclass
class StrictDecoding(DecodingConfig):
    """Schema of ``decoding`` in config.json."""

    __pydantic_config__ = STRICT


def write_spec(spec: ImpactSpec, path: Path, weights_sha256: str | None = None) -> None:
    """Write what :func:`read_spec` reads."""
    content = {"format": FORMAT, "weights_sha256": weights_sha256, **dataclasses.asdict(spec)}
    write_whole(path, json.dumps(content, indent=2) + "\n")


def read_weights_sha256(path: Path) -> str | None:
    """Read the checksum of the weights from a config.json; None if an earlier version wrote it."""
    return read_json(path, SpecFile, remedy=REMEDY).weights_sha256


def read_spec(path: Path) -> ImpactSpec:
    """Read and validate a specification written by :func:`write_spec`.

    Raises:
        UserError: The file is damaged, does not describe a model, has another format version, or describes a model
            larger than the weights next to it can be.
    """
    read = read_json(path, SpecFile, remedy=REMEDY)
    spec = ImpactSpec(**{field.name: getattr(read, field.name) for field in dataclasses.fields(ImpactSpec)})
    check_spec(spec, str(path), REMEDY)
    check_length(spec, str(path), REMEDY)
    weights = path.with_name(FILES[1])
    if weights.is_file():
        check_size(spec, str(path), weights.name, weights.stat().st_size, REMEDY)
    return spec


def check_spec(spec: ImpactSpec, where: str, remedy: str) -> None:
    """Check the consistency of a specification's fields. Messages of a UserError begin with ``where``."""
    parse_json(json.dumps(spec.decoding), StrictDecoding, f"{where}: decoding", remedy)
    if len(spec.latent_mean) != spec.latent_channels:
        count = len(spec.latent_mean)
        raise UserError(f"{where}: key 'latent_mean': {count} means for {spec.latent_channels} channels; {remedy}")
    for name, maker in (("codec", spec.codec), ("text_encoder", spec.text_encoder)):
        wrong = [key for key in ("name", "identity") if maker and not isinstance(maker.get(key), str)]
        if wrong:
            raise UserError(f"{where}: key '{name}.{wrong[0]}' must be a string; {remedy}")
    for key in ("sample_rate", "samples_per_latent"):
        rate = spec.codec.get(key, 1)
        if type(rate) is not int or not 1 <= rate <= MAX_RATE:
            raise UserError(f"{where}: key 'codec.{key}' must be from 1 to {MAX_RATE}, got {rate!r}; {remedy}")


def check_length(spec: ImpactSpec, where: str, remedy: str) -> None:
    """Check that the model has positions for clips of ``num_frames``."""
    frames, width = spec.patch_shape
    patches, most = spec.num_frames // frames * (spec.latent_width // width), spec.model.max_patches
    if patches > most:
        raise UserError(
            f"{where}: key 'num_frames': {spec.num_frames} frames are {patches} patches, but 'model.max_patches' is "
            f"{most}; {remedy}"
        )


def check_size(spec: ImpactSpec, where: str, weights: str, num_bytes: int, remedy: str) -> None:
    """Check that the file ``weights`` is large enough for the model's sizes, before allocating anything.

    Only the largest matrices are counted, at one byte per number or more.
    """
    model, (frames, width) = spec.model, spec.patch_shape
    patch_dim = spec.latent_channels * frames * width
    counts = {
        "depth and dim": 2 * model.depth * model.dim**2 * (4 + 2 * model.mlp_ratio),
        "max_patches and dim": model.max_patches * model.dim,
        "patch_size and dim": patch_dim * model.dim,
        "local_kernel and dim": model.local_kernel * model.dim,
        "head_depth and head_width": model.head_depth * model.head_width**2 if model.head in SIZED_HEADS else 0,
        "codebooks": model.num_codebooks * model.codebook_size * patch_dim if model.head == "discrete" else 0,
        "text_features": model.dim * sum(length + size for length, size in spec.text_features.values()),
    }
    for what, count in counts.items():
        if count > num_bytes:
            raise UserError(
                f"{where}: its {what} ask for {count:.3g} numbers, but {weights} has {num_bytes} bytes; {remedy}"
            )
