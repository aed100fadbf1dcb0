"""Edit real recordings, check that the rest stays, and measure what changes at the joints.

Dimension key: S samples at 16 kHz, J points, K frequency bands, N patches.
"""

import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from impact_pl.audio import SAMPLE_RATE
from impact_pl.config import DecodingConfig
from impact_pl.evaluation.labels import ESC10
from impact_pl.inference.edit import put_back
from impact_pl.inference.pipeline import SEAM, ImpactPipeline
from impact_pl.inference.recording import Recording
from impact_pl.sampling.decoding import Known
from lab.cards.class_bars import CAPTIONS
from lab.cards.decoding_table import reconstructed

WINDOW, BAND = 1024, 8  # samples (64 ms) on either side of a point; bins of its spectrum (125 Hz) per band
FLOOR = 1e-6  # power, -60 dB of full scale
NUM_POINTS = 400  # random points per recording
FADE_MS = 20.0
FADE = round(FADE_MS / 1000 * SAMPLE_RATE)
SHARES = (0.2, 0.5, 0.8)


def changes(samples: np.ndarray, points: Sequence[int]) -> np.ndarray:
    """Measure spectral flux and level step of samples (S,) at points: (J, 2), in dB.

    The flux is the mean absolute difference of two log spectra, before and after the point.
    """
    sides = np.stack([samples[point - WINDOW : point + WINDOW] for point in points]).reshape(-1, 2, WINDOW)
    window = np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(sides * window)[..., 1:]) ** 2 / np.square(window).sum()
    bands = power.reshape(*power.shape[:2], -1, BAND).mean(axis=-1)  # (J, 2, K)
    spectra, levels = (10 * np.log10(x + FLOOR) for x in (bands, np.square(sides).mean(axis=-1)))
    return np.stack([np.abs(np.diff(spectra, axis=1)).mean(axis=(1, 2)), np.abs(np.diff(levels, axis=1))[:, 0]], axis=1)


@dataclass
class Clip:
    """A real recording."""

    label: str
    waveform: Tensor  # (S,)

    @cached_property
    def own_changes(self) -> np.ndarray:  # (NUM_POINTS, 2)
        random, samples = np.random.default_rng(0), self.waveform.numpy()
        return changes(samples, random.integers(WINDOW, len(samples) - WINDOW + 1, NUM_POINTS).tolist())

    def percentiles(self, samples: np.ndarray, points: Sequence[int]) -> np.ndarray:
        """Rank the changes at points of an edited sound (S,) among the recording's own: (J, 2), ties in the middle."""
        found = changes(samples, points)[:, None]  # (J, 1, 2)
        return 50 * ((self.own_changes < found).mean(axis=1) + (self.own_changes <= found).mean(axis=1))


class Editing:
    """Edit clips with one seed, check that the rest stays, and collect percentiles, sounds and times by name."""

    def __init__(self, pipeline: ImpactPipeline, decoding: DecodingConfig, clips: list[Clip], seed: int) -> None:
        self.pipeline, self.decoding, self.clips, self.seed = pipeline, decoding, clips, seed
        self.seams: dict[str, list[np.ndarray]] = defaultdict(list)  # (J, 2) per edit
        self.sounds: dict[tuple[float, str], list[Tensor]] = defaultdict(list)
        self.times: dict[tuple[float, str], list[tuple[float, float]]] = defaultdict(list)  # wall, CPU
        self.new_labels: list[str] = []
        self.coded = reconstructed(pipeline.codec, [clip.waveform for clip in clips], seed)

    def run(self) -> "Editing":
        for number, clip in enumerate(self.clips):
            random = np.random.default_rng([self.seed, number])
            self.new_labels.append(str(random.choice([label for label in ESC10 if label != clip.label])))
            for share in SHARES:
                self.replace(number, share, self.region(len(clip.waveform), share, random))
            self.loop(number)
        return self

    @staticmethod
    def region(num_samples: int, share: float, random: np.random.Generator) -> tuple[int, int]:
        """Draw where the region lies; at least a quarter of what is kept stays on either side."""
        rest = num_samples - round(share * num_samples)
        start = int(random.integers(rest // 4, rest - rest // 4 + 1))
        return start, start + num_samples - rest

    def replace(self, number: int, share: float, span: tuple[int, int]) -> None:
        """Replace a region under two captions, by another clip, and by the codec's reconstruction."""
        clip, other = self.clips[number], self.clips[number - 1]
        joints = (span[0] - FADE // 2, span[1] + FADE // 2)
        filled = {name: self.edited(number, share, span, name) for name in ("right", "other")}
        pasted = {"cut-and-paste of another clip": other.waveform, "codec's reconstruction": self.coded[number]}
        rows = {f"replaced, {name} caption": sound for name, sound in filled.items()}
        rows |= {name: paste(clip.waveform, sound, span) for name, sound in pasted.items()}
        for name, sound in {"real, same points": clip.waveform, **rows}.items():
            self.seams[name].append(clip.percentiles(sound.numpy(), joints))

    def edited(self, number: int, share: float, span: tuple[int, int], name: str) -> Tensor:
        clip = self.clips[number]
        caption = CAPTIONS[clip.label if name == "right" else self.new_labels[number]]
        region = (span[0] / SAMPLE_RATE, span[1] / SAMPLE_RATE, caption)
        wall, cpu = time.perf_counter(), time.process_time()
        result = self.pipeline.edit((clip.waveform, SAMPLE_RATE), regions=[region], **self.options(number))
        self.times[share, name].append((time.perf_counter() - wall, time.process_time() - cpu))
        sound = result.waveform[0]
        for part in (slice(0, span[0] - FADE), slice(span[1] + FADE, None)):
            assert torch.equal(sound[part], clip.waveform[part]), "samples outside of the region changed"
        self.sounds[share, name].append(sound)
        return sound

    def loop(self, number: int) -> None:
        """Make a clip loop, and measure where its end meets its beginning and where the seam begins and ends."""
        clip = self.clips[number]
        caption = CAPTIONS[clip.label]
        seam = min(SEAM, len(clip.waveform) / SAMPLE_RATE / 4)
        result = self.pipeline.loop((clip.waveform, SAMPLE_RATE), caption, seam=seam, **self.options(number))
        half, reach = len(clip.waveform) // 2, round(seam * SAMPLE_RATE) // 2 + FADE // 2
        for name, sound in (("repeated as it is", clip.waveform), ("loop", result.waveform[0])):
            turned = np.roll(sound.numpy(), half)
            self.seams[f"{name}: end to beginning"].append(clip.percentiles(turned, [half]))
        self.seams["loop: edges of the seam"].append(clip.percentiles(turned, [half - reach, half + reach]))

    def options(self, number: int) -> dict:
        seed = zlib.crc32(f"{self.seed}/{number}".encode())
        return {"decoding": self.decoding, "seed": seed, "fade_ms": FADE_MS, "progress": False}


def paste(waveform: Tensor, sound: Tensor, span: tuple[int, int]) -> Tensor:
    """Put a sound's own samples of a region into a waveform (S,), with the cross-fades of an edit."""
    recording = Recording(waveform.double().numpy()[:, None], SAMPLE_RATE)
    put_back(recording, 0, sound.double().numpy()[:, None], [span], FADE_MS)
    return torch.from_numpy(recording.samples()[:, 0]).float()


def check_known_latents(pipeline: ImpactPipeline, clip: Clip, decoding: DecodingConfig) -> None:
    """Draw the middle half of a clip's patches and check that the others come back bit by bit."""
    unit = pipeline.samples_per_patch
    frames = min(pipeline.max_frames, len(clip.waveform) // unit)
    latents = pipeline.encode(clip.waveform[: frames * unit], SAMPLE_RATE)
    drawn = torch.zeros(frames, dtype=torch.bool)
    drawn[frames // 4 : frames - frames // 4] = True
    drawn = drawn.repeat_interleave(pipeline.model.patches_per_frame)[None]  # (1, N)
    made = pipeline.fill(latents, Known(~drawn, drawn), [CAPTIONS[clip.label]], [0], decoding)
    before, after = (pipeline.model.patchify(x.to(pipeline.device)) for x in (latents, made))
    assert torch.equal(before[~drawn], after[~drawn]), "known latents changed"
    assert not torch.equal(before[drawn], after[drawn])
