"""The model to time, with its codec and text encoder: trained, or with random weights.

Speed does not depend on the weights, so a model given by name gets random ones in the published sizes.
"""

import dataclasses
import itertools
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from impact_pl.codecs.base import AudioCodec
from impact_pl.codecs.registry import load_codec
from impact_pl.config import ModelConfig
from impact_pl.errors import UserError
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.models.impact import Impact
from impact_pl.models.spec import ImpactSpec
from impact_pl.text_encoders.base import TextEncoder, TextFeatures
from impact_pl.text_encoders.registry import load_text_encoder
from lab.cards.scaling import planned_spec

FRAMES_PER_SECOND = 25  # of both codecs' latents
CAPTION = "a dog barks while rain falls on a tin roof"
# Tokens per caption of a batch, in order. The first value and the mean are those of CAPTION in T5's tokens; AudioCaps'
# captions have as many words on average. The variation is an assumption.
CAPTION_TOKENS = (14, 10, 18, 12, 16, 8, 22, 12)

# AudioLDM's VAE and vocoder (cvssp/audioldm-s-full-v2, vae/config.json and vocoder/config.json).
VAE: dict[str, Any] = {
    "in_channels": 1, "out_channels": 1, "latent_channels": 8, "layers_per_block": 2,
    "block_out_channels": [128, 256, 512], "norm_num_groups": 32,
    "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3,
}  # fmt: skip
VOCODER: dict[str, Any] = {
    "model_in_dim": 64, "sampling_rate": 16_000, "upsample_initial_channel": 1024, "normalize_before": False,
    "upsample_rates": [5, 4, 2, 2, 2], "upsample_kernel_sizes": [16, 16, 8, 4, 4],
}  # fmt: skip
# google/flan-t5-large, the encoder of which is used; transformers' default ClapTextConfig is CLAP's text tower.
FLAN_T5_LARGE: dict[str, Any] = {
    "vocab_size": 32128, "d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip


@dataclass
class Subject:
    """A model with the other parts of a generation."""

    name: str
    model: Impact
    codec: AudioCodec | None
    encode_text: Callable[[int], object] | None  # encodes this many captions

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def num_frames(self, duration: float) -> int:
        """Convert seconds to latent frames, in complete patches.

        Raises:
            UserError: The model has too few positions.
        """
        frames = whole_patches(self.model.spec, duration)
        if self.num_patches(frames) > self.model.spec.model.max_patches:
            limit = self.model.spec.model.max_patches
            raise UserError(
                f"--duration {duration} is {self.num_patches(frames)} patches, and the model has positions for "
                f"{limit}: give a shorter one, or a model by name"
            )
        return frames

    def num_patches(self, num_frames: int) -> int:
        """Compute N for a number of latent frames."""
        return num_patches(self.model.spec, num_frames)

    def text(self, batch: int, full: bool = False) -> TextFeatures | None:
        """Create random features of captions with CAPTION_TOKENS tokens; None for a model without text.

        With ``full``, captions fill all positions.
        """
        features = self.model.spec.text_features
        if not features:
            return None
        drawn = {name: torch.randn(batch, *shape, device=self.device) for name, shape in features.items()}
        tokens = torch.tensor(list(itertools.islice(itertools.cycle(CAPTION_TOKENS), batch)), device=self.device)
        masks = [torch.arange(x.shape[1], device=self.device) < tokens[:, None] for x in drawn.values()]
        return TextFeatures(drawn, torch.cat(masks, dim=1) | full)

    def latents(self, batch: int, num_frames: int) -> Tensor:
        """Create random raw latents (B, C, H, W)."""
        spec = self.model.spec
        return torch.randn(batch, spec.latent_channels, num_frames, spec.latent_width, device=self.device)


def text_positions(spec: ImpactSpec) -> int:
    """Count the text positions computed for a caption of CAPTION_TOKENS[0] tokens."""
    caption = sum(min(length, CAPTION_TOKENS[0]) for length, _ in spec.text_features.values())
    return min(caption + spec.num_padding, spec.text_length)


def whole_patches(spec: ImpactSpec, duration: float) -> int:
    """Convert seconds to latent frames, rounded up to complete patches."""
    patch = spec.patch_shape[0]
    return math.ceil(duration * FRAMES_PER_SECOND / patch - 1e-9) * patch


def num_patches(spec: ImpactSpec, num_frames: int) -> int:
    """Compute N for a number of latent frames in complete patches."""
    return num_frames * spec.latent_width // math.prod(spec.patch_shape)


def named(name: str, config: ModelConfig, duration: float, device: torch.device, parts: bool = True) -> Subject:
    """Create a model of ``config`` with random weights, long enough for ``duration`` seconds.

    Args:
        name: Name of the model.
        config: Its configuration.
        duration: Seconds.
        device: Device of all parts.
        parts: Whether to include codec and text encoder.
    """
    spec = planned_spec(dataclasses.replace(config))
    spec.model.max_patches = max(config.max_patches, num_patches(spec, whole_patches(spec, duration)))
    torch.manual_seed(0)
    model = Impact(spec).to(device).eval()
    if not parts:
        return Subject(name, model, None, None)
    codec = random_audioldm(device) if spec.latent_width > 1 else load_codec("builtin", device)
    return Subject(name, model, codec, text_encoder(spec, device))


def from_folder(folder: Path, device: torch.device, parts: bool = True) -> Subject:
    """Load a trained model with the codec and text encoder that it names."""
    if not parts:
        return Subject(folder.name, Impact.from_pretrained(folder, device), None, None)
    pipeline = ImpactPipeline.from_pretrained(folder, device)
    encoder = pipeline.text_encoder
    if encoder is None:
        return Subject(folder.name, pipeline.model, pipeline.codec, None)
    return Subject(folder.name, pipeline.model, pipeline.codec, encode_with(encoder))


def random_audioldm(device: torch.device, vocoder: str | None = None) -> AudioCodec:
    """Create AudioLDM's codec in its published size with random weights, and this vocoder (default: HiFi-GAN).

    Raises:
        UserError: diffusers is not installed.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise UserError(f"AudioLDM's codec needs diffusers ({error}): pip install 'impact-pl[audioldm]'") from error
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        vae: Any = AutoencoderKL(**VAE)
        vae.save_pretrained(Path(folder, "vae"))
        SpeechT5HifiGan(SpeechT5HifiGanConfig(**VOCODER)).save_pretrained(Path(folder, "vocoder"))
        Path(folder, "model_index.json").write_text(json.dumps({"_class_name": "AudioLDMPipeline"}))
        return load_codec(f"audioldm:{folder}", device, vocoder)


def encode_with(encoder: TextEncoder) -> Callable[[int], object]:
    """Return a function that encodes a number of captions."""
    return lambda batch: encoder.encode([CAPTION] * batch)


def text_encoder(spec: ImpactSpec, device: torch.device) -> Callable[[int], object]:
    """Apply :func:`encode_with` to MiniLM, or to randomly initialised flan-t5-large and CLAP, at all positions."""
    if "minilm" in spec.text_features:
        return encode_with(load_text_encoder("minilm", device))
    from transformers import ClapTextConfig, ClapTextModelWithProjection, T5Config, T5EncoderModel

    t5: Any = T5EncoderModel(T5Config(**FLAN_T5_LARGE))
    clap: Any = ClapTextModelWithProjection(ClapTextConfig())
    t5, clap = t5.to(device).eval(), clap.to(device).eval()
    length = spec.text_features["t5"][0]

    @torch.no_grad()
    def encode(batch: int) -> None:
        ids = torch.full((batch, length), 7, device=device)
        mask = torch.ones_like(ids)
        t5(input_ids=ids, attention_mask=mask)
        clap(input_ids=ids, attention_mask=mask)

    return encode
