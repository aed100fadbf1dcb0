"""Pipeline from captions to sounds: text encoder, Impact model and codec behind one call.

    pipeline = ImpactPipeline.from_pretrained()
    sounds = pipeline(["a dog barks", "rain on a roof"], duration=5, seed=1)
    sounds.waveforms  # (B, S) at sounds.sample_rate
    sounds.save("sounds")

Dimension key: B clips, S waveform samples, C latent channels, H latent frames (time), W latent width.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from impact_pl.audio import resample, within_full_scale
from impact_pl.codecs.base import AudioCodec
from impact_pl.config import DecodingConfig, with_preset
from impact_pl.errors import UserError
from impact_pl.inference import edit as editing
from impact_pl.inference.engine import Engine, build_engine, weights_version
from impact_pl.inference.generate import Progress, fill, generate
from impact_pl.inference.loading import load_parts, require_codec, require_text_encoder
from impact_pl.inference.options import DecodingOptions, DrawingOptions, EditingOptions, Style, shown
from impact_pl.inference.recording import EditedAudio, Sound, open_sound
from impact_pl.inference.sounds import GeneratedAudio
from impact_pl.inference.stream import Timeline, check_timeline, stream
from impact_pl.models.impact import Impact
from impact_pl.models.spec import BUILTIN
from impact_pl.precision import dtype_of, find_device
from impact_pl.randomness import Generators, clip_generators, is_text
from impact_pl.sampling.decoding import Known
from impact_pl.text_encoders.base import TextEncoder, TextFeatures

SEAM = 1.0  # seconds around a loop's joint that are drawn
MAX_ENGINES = 2  # that a pipeline keeps; each holds a copy of the weights


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
        require_codec(model.spec, codec, "the model's specification")
        if model.spec.text_encoder is not None:
            if text_encoder is None:
                raise UserError(f"this model needs the text encoder {model.spec.text_encoder['name']!r}: pass it")
            require_text_encoder(model.spec, text_encoder, "the model's specification")
        self.model, self.codec, self.text_encoder = model, codec, text_encoder
        self._engines: dict[tuple[str, str], Engine] = {}  # by name and precision, of the weights as they are
        self._weights: tuple = ()
        self._lock = threading.RLock()  # for the engine, whose CUDA graphs have fixed inputs, and the model's mode

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path = BUILTIN,
        device: str | torch.device = "auto",
        codec: str | None = None,
        text_encoder: str | None = None,
        allow_hub: bool = False,
        vocoder: str | None = None,
    ) -> "ImpactPipeline":
        """Load a model folder (``config.json``, ``model.safetensors``) with its codec and text encoder.

        Args:
            path: Model folder; defaults to the model that ships with the package.
            device: Device for all parts: cpu, cuda, cuda:1, mps. auto prefers a GPU.
            codec: Name or folder of the codec, if it has moved since the training.
            text_encoder: Name of the text encoder, likewise.
            allow_hub: Allow downloads of parts that only the model folder names as repositories of the Hugging Face
                hub. Those that ``codec`` and ``text_encoder`` name are downloaded in any case.
            vocoder: Of AudioLDM's codec: hifigan (its own), fast (ours), griffin_lim, or the folder of a vocoder.

        Raises:
            UserError: There is no model folder at ``path``, or codec or text encoder are unknown or not those of the
                model.
        """
        return cls(*load_parts(path, device, codec, text_encoder, allow_hub, vocoder))

    def save_pretrained(self, folder: str | Path, half: bool = False) -> None:
        """Write the model folder. It stores codec and text encoder by name, for :meth:`from_pretrained`."""
        self.model.save_pretrained(folder, half)

    def to(self, device: str | torch.device) -> "ImpactPipeline":
        """Move model, codec and text encoder to ``device``."""
        with self._lock:
            self._engines.clear()
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
    def frames_per_patch(self) -> int:
        """Latent frames per patch."""
        return self.model.spec.patch_shape[0]

    @property
    def samples_per_patch(self) -> int:
        """Waveform samples that a patch spans in time."""
        return self.frames_per_patch * self.codec.samples_per_latent

    @property
    def max_frames(self) -> int:
        """Patches along time in ``max_duration``."""
        return round(self.max_duration * self.sample_rate) // self.samples_per_patch

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
        negative_caption: str | None = None,
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
            negative_caption: What guidance leads away from, in place of the null condition.
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
        decoding = self._decoding(preset, decoding, dict(options))
        num_samples, num_frames = self._length(duration)
        with self._lock, shown(progress) as report:
            latents = generate(
                self.model,
                self._encode_captions(texts),
                num_frames=num_frames,
                batch_size=len(texts),
                decoding=decoding,
                generator=clip_generators(seeds, texts, "latents"),
                progress=report,
                engine=self._prepared(decoding),
                negative=self._negative(negative_caption, len(texts)),
            )  # (B, C, H, W), raw
            decode = self.codec.decoder_in(dtype_of(decoding.precision, self.device))
            waveforms = decode(latents, clip_generators(seeds, texts, "codec"))[:, :num_samples]
        return GeneratedAudio(within_full_scale(waveforms).cpu(), self.sample_rate, tuple(texts), tuple(seeds))

    def edit(
        self,
        sound: Sound,
        caption: str | None = None,
        regions: Sequence[tuple[float, float] | tuple[float, float, str]] = (),
        **options: Unpack[EditingOptions],
    ) -> EditedAudio:
        """Replace regions of a recording by what a caption says, in the context of the rest.

        Outside of the regions and of a cross-fade the samples are the recording's own, at its own sample rate, in mono
        or stereo. Of a long file, only a window around each region is read.

        Args:
            sound: A file, a result of this pipeline, or a waveform (S,) or (C, S) with its sample rate.
            caption: What to draw in regions that have no caption of their own.
            regions: (start, end) or (start, end, caption), in seconds.
            options: See :class:`EditingOptions`.

        Raises:
            UserError: The sound cannot be read, has more than two channels or is silent, or a region is empty,
                outside of it or overlaps with another.
        """
        return self._edited(editing.edit, sound, options, editing.parse_regions(regions, caption))

    def extend(
        self,
        sound: Sound,
        caption: str | None = None,
        seconds: float = 2.0,
        side: str = "end",
        **options: Unpack[EditingOptions],
    ) -> EditedAudio:
        """Make a recording longer by ``seconds`` at its ``side``: end, start, or both, each by that much.

        Args:
            sound: See :meth:`edit`.
            caption: What to draw.
            seconds: Up to an hour. Beyond half of the model's own, a window slides over what was drawn before.
            side: Where to.
            options: See :class:`EditingOptions`.
        """
        return self._edited(editing.extend, sound, options, caption, seconds, side)

    def vary(
        self, sound: Sound, caption: str | None = None, share: float = 0.3, **options: Unpack[EditingOptions]
    ) -> EditedAudio:
        """Draw a random ``share`` of a recording's patches again, given the others.

        Args:
            sound: See :meth:`edit`.
            caption: What to draw.
            share: Fraction in (0, 1].
            options: See :class:`EditingOptions`.
        """
        return self._edited(editing.vary, sound, options, caption, share)

    def loop(
        self,
        sound_or_caption: Sound,
        caption: str | None = None,
        seconds: float | None = None,
        seam: float = SEAM,
        **options: Unpack[EditingOptions],
    ) -> EditedAudio:
        """Make a loop without a seam, of a caption or of a recording.

        The sound is rotated so that its ends meet in the middle of it. The seam is drawn there, and the sound is
        rotated back: half of the seam is at its end, the other half at its beginning.

        Args:
            sound_or_caption: A caption (str), or a sound as in :meth:`edit`, a file as a ``Path``.
            caption: What to draw at the seam of a recording.
            seconds: Length of the loop; None: ``max_duration``, or all of the recording.
            seam: Seconds to draw, at most half of the loop.
            options: See :class:`EditingOptions`.
        """
        if isinstance(sound_or_caption, str):
            if caption is not None:
                raise UserError("give one caption, or a recording (a file as a Path) and a caption for its seam")
            caption = sound_or_caption
            drawing: dict[str, Any] = {**options}
            for name in ("fade_ms", "match_level"):
                drawing.pop(name, None)
            if (seconds or 0) > self.max_duration:
                editing.check_length(seconds or 0)
                chunks = [chunk.waveforms for chunk in self.stream(caption, seconds, **drawing)]
                sound_or_caption = torch.cat(chunks, dim=1), self.sample_rate
            else:
                sound_or_caption = self(caption, seconds, **drawing)
        elif seconds is not None:
            sound_or_caption = editing.beginning(open_sound(sound_or_caption), seconds)
        return self._edited(editing.loop, sound_or_caption, options, caption, seam)

    def stream(
        self,
        timeline: str | Timeline,
        duration: float | None = None,
        **options: Unpack[DrawingOptions],
    ) -> Iterator[GeneratedAudio]:
        """Yield a sound of any duration in chunks, in constant memory. Joined, they are one sound.

        Args:
            timeline: A caption, or (seconds, caption) pairs: each caption holds from its time on.
            duration: Duration in seconds; None: without end.
            options: See :class:`DrawingOptions`. ``progress`` is called with (frames, number of frames or 0) per chunk.
        """
        timeline = [(0.0, timeline)] if isinstance(timeline, str) else list(timeline)
        check_timeline(timeline, duration)  # at the call, not at the first chunk
        if duration is not None and duration * self.sample_rate < 1:
            raise UserError(f"duration {duration:g} s: is less than a sample at {self.sample_rate} Hz")
        progress = options.get("progress")
        report = None if isinstance(progress, bool) else progress
        return stream(self, timeline, duration, self._style(options, report))

    def _style(self, options: Mapping[str, Any], report: Progress | None) -> Style:
        """Separate the options that a call draws with from the fields of its decoding configuration."""
        given = {name: value for name, value in options.items() if name != "progress"}
        fields = {name: given.pop(name) for name in list(given) if name in DecodingOptions.__annotations__}
        decoding = self._decoding(given.pop("preset", None), given.pop("decoding", None), fields)
        return Style(decoding, report, **given)

    def _edited(self, operation: Callable, sound: Sound, options: EditingOptions, *arguments: Any) -> EditedAudio:
        """Run an operation of :mod:`impact_pl.inference.edit`."""
        with torch.inference_mode(), self._lock, shown(options.get("progress", True)) as report:
            return operation(self, open_sound(sound), *arguments, self._style(options, report))

    @torch.inference_mode()
    def fill(
        self,
        latents: Tensor,
        known: Known,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        decoding: DecodingConfig,
        *,
        negative_caption: str | None = None,
        purpose: str = "latents",
        progress: Progress | None = None,
    ) -> Tensor:
        """Draw the missing patches of whitened latents (B, C, H, W); the known ones are returned unchanged.

        Args:
            latents: As :meth:`encode` returns them; H fills whole patches.
            known: Which patches are known, and which to draw.
            captions: One per clip.
            seeds: One per clip.
            decoding: Complete configuration.
            negative_caption: What guidance leads away from.
            purpose: Distinguishes draws of the same captions and seeds from each other.
            progress: Called with (iteration, number of iterations).
        """
        with self._lock:
            patches = fill(
                self.model,
                self._encode_captions(list(captions)),
                self.model.patchify(latents.to(self.device)),
                known,
                decoding,
                clip_generators(seeds, captions, purpose),
                progress,
                self._prepared(decoding),
                self._negative(negative_caption, len(latents)),
            )
            return self.model.unpatchify(patches)

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
        own = [torch.Generator().manual_seed(seed) for _ in latents]
        return within_full_scale(self.decode_raw(latents, own))

    @torch.no_grad()
    def decode_raw(self, latents: Tensor, generator: Generators) -> Tensor:
        """Decode whitened latents (B, C, H, W) into waveforms (B, S) that may exceed full scale."""
        with self._lock:
            return self.codec.decode(self.model.unwhiten(latents.to(self.device)), generator)

    def _decoding(self, preset: str | None, decoding: DecodingConfig | None, given: dict[str, Any]) -> DecodingConfig:
        return with_preset(decoding or self.model.spec.own_decoding, preset or "exact", given)

    def _negative(self, caption: str | None, batch: int) -> TextFeatures | None:
        return None if caption is None else self._encode_captions([caption] * batch)

    def _prepared(self, decoding: DecodingConfig) -> Engine:
        """Return the engine that ``decoding`` names. Two are kept, so that alternating presets reuse their graphs."""
        if self._weights != weights_version(self.model):
            self._engines.clear()
            self._weights = weights_version(self.model)
        key = (decoding.engine, decoding.precision)
        engine = self._engines.pop(key, None)
        if engine is None and len(self._engines) == MAX_ENGINES:
            del self._engines[next(iter(self._engines))]  # free its memory before the next engine is built
        self._engines[key] = engine or build_engine(self.model, decoding)
        return self._engines[key]

    def _encode_captions(self, captions: list[str | None]) -> TextFeatures | None:
        known = [caption for caption in captions if caption is not None]
        if not known:
            if self.text_encoder is not None and self.model.spec.text_encoder is not None:
                raise UserError("this model is conditioned on text: give at least one caption")
            return None
        if len(known) < len(captions) or not all(isinstance(caption, str) and caption.strip() for caption in known):
            raise UserError(f"every caption needs at least one word, got {captions!r}")
        strange = [caption for caption in known if not is_text(caption)]
        if strange:
            raise UserError(f"the caption {strange[0]!a} holds bytes that are not text: write it in UTF-8")
        if self.model.spec.text_encoder is None:
            raise UserError("this is an unconditional (stage 1) model and takes no captions: use a stage-2 model")
        assert self.text_encoder is not None  # checked in __init__
        return self.text_encoder.encode(known).to(self.device)

    def _length(self, duration: float | None) -> tuple[int, int]:
        duration = self.max_duration if duration is None else duration
        if not 1 / self.sample_rate <= duration <= self.max_duration + 1e-9:
            raise UserError(
                f"duration {duration} s is outside (0, {self.max_duration:.2f}] s, from one sample to the length of "
                "the clips that the model was trained on: ask for a shorter sound, or stream a longer one"
            )
        num_samples = round(duration * self.sample_rate)
        patch = self.model.spec.model.patch_size  # latent frames must fill whole patches
        return num_samples, math.ceil(self.codec.latent_frames(num_samples) / patch) * patch
