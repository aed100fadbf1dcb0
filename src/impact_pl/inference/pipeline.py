"""Pipeline from captions to sounds: text encoder, Impact model and codec behind one call.

    pipeline = ImpactPipeline.from_pretrained()
    sounds = pipeline(["a dog barks", "rain on a roof"], duration=5, seed=1)
    sounds.waveforms  # (B, S) at sounds.sample_rate
    sounds.save("sounds")

Dimension key: B clips, S waveform samples, C latent channels, H latent frames (time), W latent width.
"""

import math
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from impact_pl.audio import resample, within_full_scale
from impact_pl.codecs.base import AudioCodec
from impact_pl.codecs.registry import load_codec
from impact_pl.config import DecodingConfig, with_preset
from impact_pl.errors import UserError
from impact_pl.hub import without_downloads
from impact_pl.inference.engine import Engine, build_engine, weights_version
from impact_pl.inference.generate import Progress, generate
from impact_pl.inference.sounds import GeneratedAudio
from impact_pl.models.impact import Impact
from impact_pl.models.spec import BUILTIN
from impact_pl.precision import find_device
from impact_pl.progress import Bar
from impact_pl.randomness import clip_generators
from impact_pl.registry import is_gone
from impact_pl.text_encoders.base import TextEncoder, TextFeatures
from impact_pl.text_encoders.registry import load_text_encoder


class DecodingOptions(TypedDict, total=False):
    """Fields of :class:`DecodingConfig` as keyword arguments. Omitted ones use the model's own values."""

    num_iterations: int
    num_diffusion_steps: int
    guidance_scale: float
    guidance_schedule: str
    temperature: float
    min_alpha_bar: float
    max_rms: float
    order: str
    confidence_candidates: int
    confidence_steps: int
    reveal: str
    final_diffusion_steps: int
    solver: str
    encoder_reuse: int
    engine: str
    precision: str


class ImpactPipeline:
    """Pipeline for text-to-audio generation.

    Threads may share a pipeline: calls are serialised and give the same results as in a single thread.

    Args:
        model: An Impact model. A model without text (stage 1) generates without captions.
        codec: The codec that the model was trained on.
        text_encoder: The text encoder that the model was trained with; None for an unconditional model.

    Raises:
        UserError: Codec or text encoder differ from those of the model.
    """

    def __init__(self, model: Impact, codec: AudioCodec, text_encoder: TextEncoder | None):
        _require_same("codec", model.spec.codec, codec)
        if model.spec.text_encoder is not None:
            if text_encoder is None:
                raise UserError(f"this model needs the text encoder {model.spec.text_encoder['name']!r}: pass it")
            _require_same("text encoder", model.spec.text_encoder, text_encoder)
        self.model, self.codec, self.text_encoder = model, codec, text_encoder
        self._engine: tuple[tuple, Engine] | None = None  # key of the engine, and the engine
        self._lock = threading.RLock()  # for the engine, whose CUDA graphs have fixed inputs, and the model's mode

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path = BUILTIN,
        device: str | torch.device = "auto",
        codec: str | None = None,
        text_encoder: str | None = None,
        allow_hub: bool = False,
    ) -> "ImpactPipeline":
        """Load a model folder (``config.json``, ``model.safetensors``) with its codec and text encoder.

        Args:
            path: Model folder; defaults to the model that ships with the package.
            device: Device for all parts: cpu, cuda, cuda:1, mps. auto prefers a GPU.
            codec: Name or folder of the codec, if it has moved since the training.
            text_encoder: Name of the text encoder, likewise.
            allow_hub: Allow downloads of parts that only the model folder names as repositories of the Hugging Face
                hub. Those that ``codec`` and ``text_encoder`` name are downloaded in any case.

        Raises:
            UserError: There is no model folder at ``path``, or codec or text encoder are unknown or not those of the
                model.
        """
        device = find_device(str(device))
        model = Impact.from_pretrained(path, device)
        noted = model.spec.codec["name"]
        if codec is None and is_gone(noted):
            wanted = "FOLDER" if Path(noted).is_absolute() else f"{noted.partition(':')[0]}:FOLDER"
            raise UserError(
                f"the codec that {path} was trained with was in {noted}, and that folder is gone: locate it "
                f"with --codec {wanted} (in Python: codec={wanted!r})"
            )
        text = None
        if model.spec.text_encoder is not None:
            with _downloads(allow_hub or text_encoder is not None):
                text = cls._text_encoder(path, model, device, text_encoder)
        with _downloads(allow_hub or codec is not None):
            return cls(model, load_codec(codec or noted, device), text)

    @staticmethod
    def _text_encoder(path: str | Path, model: Impact, device: str, name: str | None) -> TextEncoder:
        assert model.spec.text_encoder is not None
        try:
            return load_text_encoder(name or model.spec.text_encoder["name"], device)
        except UserError as error:
            raise UserError(
                f"{error} (the text encoder that {path} was trained with; if it has moved, give its location with "
                "--text-encoder NAME, in Python: text_encoder=NAME)"
            ) from error

    def save_pretrained(self, folder: str | Path, half: bool = False) -> None:
        """Write the model folder. It stores codec and text encoder by name, for :meth:`from_pretrained`."""
        self.model.save_pretrained(folder, half)

    def to(self, device: str | torch.device) -> "ImpactPipeline":
        """Move model, codec and text encoder to ``device``."""
        with self._lock:
            self._engine = None
            for part in (self.model, self.codec, self.text_encoder):
                if part is not None:
                    part.to(find_device(str(device)))
        return self

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def sample_rate(self) -> int:
        """Sample rate of the waveforms, in Hz."""
        return self.codec.sample_rate

    @property
    def max_duration(self) -> float:
        """Length of the training clips, in seconds. Position embeddings beyond it were never trained."""
        spec, codec = self.model.spec, self.codec
        frames, width = spec.patch_shape
        frames = spec.num_frames or spec.model.max_patches // (codec.latent_width // width) * frames
        return frames * codec.samples_per_latent / codec.sample_rate

    @torch.inference_mode()
    def __call__(
        self,
        captions: str | Sequence[str] | None = None,
        duration: float | None = None,
        *,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        preset: str | None = None,
        decoding: DecodingConfig | None = None,
        progress: bool | Progress = True,
        **options: Unpack[DecodingOptions],
    ) -> GeneratedAudio:
        """Generate one sound per caption.

        A sound is a function of the model, its caption and its seed. The other captions of the batch affect it by
        rounding only.

        Args:
            captions: One or more captions. None samples from an unconditional (stage 1) model.
            duration: Duration in seconds. None uses ``max_duration``.
            seed: Seed of every clip.
            seeds: One seed per clip instead. With a single caption, generates one variation per seed.
            preset: Name in ``config.PRESETS``, applied on top of the model's own decoding settings.
            decoding: Complete configuration that replaces the model's own; preset and options apply on top of it.
            progress: True shows a progress bar if stdout is a terminal. A function is called with (iteration, number of
                iterations).
            options: Fields of ``DecodingConfig``, such as ``num_iterations=16, guidance_scale=3``.

        Raises:
            UserError: There are no captions, an empty caption, a different number of seeds, a duration outside (0,
                ``max_duration``], captions for an unconditional model, or invalid decoding settings.
        """
        texts: list[str | None] = [captions] if captions is None or isinstance(captions, str) else [*captions]
        seeds = [seed] * len(texts) if seeds is None else list(seeds)
        texts = texts * len(seeds) if len(texts) == 1 else texts
        if not texts or len(seeds) != len(texts):
            raise UserError(
                f"{len(texts)} captions and {len(seeds)} seeds: give at least one, and one seed per caption"
            )
        decoding = with_preset(decoding or self.model.spec.own_decoding, preset or "exact", dict(options))
        num_samples, num_frames = self._length(duration)
        with self._lock, _shown(progress, decoding.num_iterations) as report:
            latents = generate(
                self.model,
                self._encode_captions(texts),
                num_frames=num_frames,
                batch_size=len(texts),
                decoding=decoding,
                generator=clip_generators(seeds, texts, "latents"),
                progress=report,
                engine=self._prepared(decoding),
            )  # (B, C, H, W), raw
            waveforms = self.codec.decode(latents, clip_generators(seeds, texts, "codec"))[:, :num_samples]
        return GeneratedAudio(within_full_scale(waveforms).cpu(), self.sample_rate, tuple(texts), tuple(seeds))

    @torch.no_grad()
    def encode(self, waveform: Tensor, sample_rate: int) -> Tensor:
        """Encode mono waveforms (B, S) or (S,) of any sample rate into whitened latents (B, C, H, W).

        Returns the mean of the codec's posterior, without sampling. An incomplete last frame is padded with silence.
        """
        if waveform.ndim not in (1, 2) or not waveform.shape[-1]:
            raise UserError(f"waveform of shape {tuple(waveform.shape)}: expected (samples) or (clips, samples)")
        waveform = resample(torch.atleast_2d(waveform).float(), sample_rate, self.sample_rate)
        with self._lock:
            return self.model.whiten(self.codec.encode(waveform.to(self.device)), None)

    @torch.no_grad()
    def decode(self, latents: Tensor, seed: int = 0) -> Tensor:
        """Decode whitened latents (B, C, H, W) into waveforms (B, S) in [-1, 1].

        ``seed`` controls what the codec samples, such as the fine structure of noise, separately per clip.
        """
        raw = self.model.unwhiten(latents.to(self.device))
        own = [torch.Generator().manual_seed(seed) for _ in raw]
        with self._lock:
            return within_full_scale(self.codec.decode(raw, own))

    def _prepared(self, decoding: DecodingConfig) -> Engine:
        """Return the engine that ``decoding`` names, cached until another one is needed or the weights change."""
        key = (decoding.engine, decoding.precision, weights_version(self.model))
        if self._engine is None or self._engine[0] != key:
            self._engine = None  # free its memory before the next engine is built
            self._engine = key, build_engine(self.model, decoding)
        return self._engine[1]

    def _encode_captions(self, captions: list[str | None]) -> TextFeatures | None:
        known = [caption for caption in captions if caption is not None]
        if not known:
            if self.text_encoder is not None and self.model.spec.text_encoder is not None:
                raise UserError("this model is conditioned on text: give at least one caption")
            return None
        if len(known) < len(captions) or not all(caption.strip() for caption in known):
            raise UserError(f"every caption needs at least one word, got {captions!r}")
        if self.model.spec.text_encoder is None:
            raise UserError("this is an unconditional (stage 1) model and takes no captions: use a stage-2 model")
        assert self.text_encoder is not None  # checked in __init__
        return self.text_encoder.encode(known).to(self.device)

    def _length(self, duration: float | None) -> tuple[int, int]:
        duration = self.max_duration if duration is None else duration
        if not 0 < duration <= self.max_duration + 1e-9:
            raise UserError(
                f"duration {duration} s is outside (0, {self.max_duration:.2f}] s, the length of the clips that the "
                "model was trained on: ask for a shorter sound"
            )
        num_samples = round(duration * self.sample_rate)
        patch = self.model.spec.model.patch_size  # latent frames must fill whole patches
        return num_samples, math.ceil(self.codec.latent_frames(num_samples) / patch) * patch


@contextmanager
def _shown(progress: bool | Progress, num_iterations: int) -> Iterator[Progress | None]:
    """Return the progress callback for :func:`generate`: the given function, or one that updates a progress bar."""
    if not isinstance(progress, bool):
        yield progress
    elif progress and sys.stdout.isatty():
        with Bar("generating", num_iterations, 0, "iterations") as bar:
            yield lambda iteration, _: bar.advance()
    else:
        yield None


def _require_same(what: str, expected: dict, part: AudioCodec | TextEncoder) -> None:
    if expected["identity"] != part.identity:
        raise UserError(
            f"the model was trained with {what} {expected['name']!r} ({expected['identity']}), "
            f"this one is {part.name!r} ({part.identity}): use the {what} it was trained with, or train again"
        )


def _downloads(allowed: bool) -> AbstractContextManager[None]:
    return nullcontext() if allowed else without_downloads()
