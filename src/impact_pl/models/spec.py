"""What a model must know to be rebuilt, and its file: config.json of a model folder."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from impact_pl.config import DecodingConfig, MaskRatioConfig, ModelConfig
from impact_pl.errors import UserError
from impact_pl.partial import write_whole

BUILTIN = "builtin"  # the name of the model that comes with the package
BUILTIN_FOLDER = Path(__file__).parents[1] / "assets" / "model"
FILES = ("config.json", "model.safetensors")


def find_model(name_or_path: str | Path) -> Path:
    """The folder of ``builtin``; every other name is a path already.

    Raises:
        ValueError: this installation has no built-in model.
    """
    if str(name_or_path) != BUILTIN:
        return Path(name_or_path)
    missing = [name for name in FILES if not (BUILTIN_FOLDER / name).is_file()]
    if missing:
        raise UserError(
            f"this installation has no built-in model ({BUILTIN_FOLDER} lacks {' and '.join(missing)}): name the "
            "folder of another with --model, such as runs/NAME/model, which impact train writes at its end"
        )
    return BUILTIN_FOLDER


FORMAT = 1  # of a saved model folder


@dataclass
class ImpactSpec:
    """Everything a model must know to be rebuilt and to decide whether data fits it."""

    model: ModelConfig
    latent_channels: int
    latent_width: int
    latent_mean: list[float]  # (C,), of the codec's raw latents
    latent_std: float  # one scalar, so that a codec decides its channels' relative scale
    text_features: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)  # name -> (L_i, d_i)
    codec: dict = dataclasses.field(default_factory=dict)  # name, identity, sample_rate, samples_per_latent
    text_encoder: dict | None = None  # name, identity
    num_frames: int = 0  # H of the clips that it was trained on: later positions were never trained; 0: not noted
    decoding: dict = dataclasses.field(default_factory=dict)  # fields of DecodingConfig, of the training's `decoding`

    @property
    def patch_shape(self) -> tuple[int, int]:
        """(frames, width) of a patch: square, or as wide as a latent that is narrower than that."""
        return self.model.patch_size, min(self.model.patch_size, self.latent_width)

    @property
    def own_decoding(self) -> DecodingConfig:
        """How this model is to be decoded, unless one says otherwise."""
        return DecodingConfig(**self.decoding)

    @property
    def text_length(self) -> int:
        """L, over all text features."""
        return sum(length for length, _ in self.text_features.values())

    @property
    def num_padding(self) -> int:
        """At how many positions without text something stands, at most: ``model.text_padding``, or L."""
        padding = self.model.text_padding
        return self.text_length if padding < 0 else min(padding, self.text_length)


def write_spec(spec: ImpactSpec, path: Path) -> None:
    write_whole(path, json.dumps({"format": FORMAT, **dataclasses.asdict(spec)}, indent=2) + "\n")


def read_spec(path: Path) -> ImpactSpec:
    """What :func:`write_spec` wrote.

    Raises:
        ValueError: damaged, not of a model, or of another format.
    """
    try:
        config = json.loads(path.read_text())
        found = config.pop("format", None)
        if found != FORMAT:
            raise UserError(f"{path} has format {found}, this version reads format {FORMAT}: export the model again.")
        model = config.pop("model")
        ratio = MaskRatioConfig(**model.pop("mask_ratio"))
        features = {name: tuple(shape) for name, shape in config.pop("text_features").items()}
        spec = ImpactSpec(model=ModelConfig(**model, mask_ratio=ratio), text_features=features, **config)
        _ = spec.own_decoding  # of known fields alone
        return spec
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the configuration of an Impact model: {error}") from error
