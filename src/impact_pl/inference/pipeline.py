"""Captions in, waveforms out: text encoder, Impact model and codec behind one call.

pipeline = ImpactPipeline.from_pretrained("runs/demo/text/model")
waveforms = pipeline(["a dog barks"], duration=5.12, seed=1)  # (B, S)
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from impact_pl.codecs.base import AudioCodec
from impact_pl.codecs.registry import load_codec
from impact_pl.config import DecodingConfig
from impact_pl.errors import UserError
from impact_pl.inference.engine import Engine, build_engine, weights_version
from impact_pl.inference.generate import generate
from impact_pl.models.impact import Impact
from impact_pl.registry import is_gone
from impact_pl.text_encoders.base import TextEncoder
from impact_pl.text_encoders.registry import load_text_encoder


class ImpactPipeline:
    """The whole way from captions to sound.

    Args:
        model: an Impact model; without text parts (stage 1) captions are refused.
        codec: the codec that the model was trained on.
        text_encoder: the text encoder that the model was trained with, or None for an unconditional model.

    Raises:
        ValueError: codec or text encoder are not those of the model.
    """

    def __init__(self, model: Impact, codec: AudioCodec, text_encoder: TextEncoder | None):
        _require_same("codec", model.spec.codec, codec)
        if model.spec.text_encoder is not None:
            if text_encoder is None:
                raise UserError(f"this model needs the text encoder {model.spec.text_encoder['name']!r}: pass it")
            _require_same("text encoder", model.spec.text_encoder, text_encoder)
        self.model, self.codec, self.text_encoder = model, codec, text_encoder
        self._engine: tuple[tuple, Engine] | None = None  # what it was made for, and the engine

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        codec: str | None = None,
        text_encoder: str | None = None,
    ) -> "ImpactPipeline":
        """Load a model folder (``config.json``, ``model.safetensors``) with the codec and text encoder that it names.

        Args:
            path: the model folder, or ``builtin``, the model that comes with the package.
            device: where everything runs.
            codec: name or folder of the codec, where it is no longer at the place that the model noted.
            text_encoder: name of the text encoder, likewise.

        Raises:
            ValueError: no model folder at ``path``, an unknown codec or text encoder, or not those of the model.
        """
        model = Impact.from_pretrained(path, device)
        noted = model.spec.codec["name"]
        if codec is None and is_gone(noted):
            wanted = "FOLDER" if Path(noted).is_absolute() else f"{noted.partition(':')[0]}:FOLDER"
            raise UserError(
                f"the codec that {path} was trained with was in {noted}, and that folder is gone: say where it is now "
                f"with --codec {wanted} (in Python: codec={wanted!r})"
            )
        text = None if model.spec.text_encoder is None else cls._text_encoder(path, model, device, text_encoder)
        return cls(model, load_codec(codec or noted, device), text)

    @staticmethod
    def _text_encoder(path: str | Path, model: Impact, device: str | torch.device, name: str | None) -> TextEncoder:
        assert model.spec.text_encoder is not None
        try:
            return load_text_encoder(name or model.spec.text_encoder["name"], device)
        except UserError as error:
            raise UserError(
                f"{error} (the text encoder that {path} was trained with; if it is elsewhere now, say where with "
                "--text-encoder NAME, in Python: text_encoder=NAME)"
            ) from error

    @property
    def sample_rate(self) -> int:
        return self.codec.sample_rate

    @property
    def max_duration(self) -> float:
        """Of the clips that the model was trained on, in seconds: its later position embeddings were never trained."""
        spec, codec = self.model.spec, self.codec
        frames, width = spec.patch_shape
        frames = spec.num_frames or spec.model.max_patches // (codec.latent_width // width) * frames
        return frames * codec.samples_per_latent / codec.sample_rate

    @torch.inference_mode()
    def __call__(
        self,
        captions: str | list[str] | None,
        duration: float | None = None,
        seed: int = 0,
        decoding: DecodingConfig | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Generate one clip for each caption.

        Args:
            captions: one caption or several; None draws one unconditional clip from a stage-1 model.
            duration: seconds; None is the longest that the model can do.
            seed: the same seed and the same captions give the same waveforms, bit for bit on CPU.
            decoding: iterations, diffusion steps, guidance, order, temperature, engine; None: as the model is made for.
            progress: called with (iteration, num_iterations).

        Returns:
            waveforms (B, S) in [-1, 1].

        Raises:
            ValueError: no captions, an empty caption, a duration outside (0, ``max_duration``], or captions for an
                unconditional model.
        """
        captions = [captions] if isinstance(captions, str) else captions
        decoding = decoding or self.model.spec.own_decoding
        num_samples, num_frames = self._length(duration)
        device = next(self.model.parameters()).device
        generator = torch.Generator(device).manual_seed(seed)
        latents = generate(
            self.model,
            self._encode_captions(captions),
            num_frames=num_frames,
            batch_size=len(captions) if captions else 1,
            decoding=decoding,
            generator=generator,
            progress=progress,
            engine=self._prepared(decoding),
        )  # (B, C, H, W), raw
        excitation = torch.Generator().manual_seed(seed)  # a codec draws on the CPU, wherever the model runs
        return self.codec.decode(latents, generator=excitation)[:, :num_samples].clamp(-1, 1)  # (B, S)

    def _prepared(self, decoding: DecodingConfig) -> Engine:
        """The engine that ``decoding`` names, kept from call to call until another is wanted or the weights change."""
        key = (decoding.engine, decoding.precision, weights_version(self.model))
        if self._engine is None or self._engine[0] != key:
            self._engine = None  # its memory is free before another one takes as much
            self._engine = key, build_engine(self.model, decoding)
        return self._engine[1]

    def _encode_captions(self, captions: list[str] | None):
        if captions is None:
            if self.text_encoder is not None and self.model.spec.text_encoder is not None:
                raise UserError("this model is conditioned on text: give at least one caption")
            return None
        if not captions or any(not caption.strip() for caption in captions):
            raise UserError(f"every caption needs at least one word, got {captions!r}")
        if self.model.spec.text_encoder is None:
            raise UserError("this is an unconditional (stage 1) model and knows no captions: use a stage-2 model")
        assert self.text_encoder is not None  # checked in __init__
        return self.text_encoder.encode(captions).to(next(self.model.parameters()).device)

    def _length(self, duration: float | None) -> tuple[int, int]:
        duration = self.max_duration if duration is None else duration
        if not 0 < duration <= self.max_duration + 1e-9:
            raise UserError(
                f"duration {duration} s is outside (0, {self.max_duration:.2f}] s, the length of the clips that the "
                "model was trained on: ask for a shorter sound"
            )
        num_samples = round(duration * self.sample_rate)
        patch = self.model.spec.model.patch_size  # the latent frames have to fill whole patches
        return num_samples, math.ceil(self.codec.latent_frames(num_samples) / patch) * patch


def _require_same(what: str, expected: dict, part: AudioCodec | TextEncoder) -> None:
    if expected["identity"] != part.identity:
        raise UserError(
            f"the model was trained with {what} {expected['name']!r} ({expected['identity']}), "
            f"this one is {part.name!r} ({part.identity}): use the {what} of the training, or train again"
        )
