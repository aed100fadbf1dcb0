"""What the page offers, without the page: make and edit sounds within limits, and keep a session's history.

A sound is a WAV file in the folder of its session, with the settings that make it again.
"""

import math
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from impact_pl.audio import measure_level, save_audio
from impact_pl.config import PRESETS
from impact_pl.errors import UserError
from impact_pl.inference.edit import SIDES
from impact_pl.inference.generate import Progress
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.inference.recording import EditedAudio, Recording, open_sound
from impact_pl.inference.sounds import file_stem
from impact_pl.models.spec import BUILTIN

SEED_LIMIT = 2**31


@dataclass(frozen=True)
class Limits:
    """What one call may ask for, and how many calls may wait.

    Attributes:
        caption: Characters of a caption.
        variations: Sounds per call.
        seconds: Length of a recording to edit.
        added: Seconds to extend a recording by.
        history: Sounds that a session keeps.
        waiting: Calls in the queue; one runs at a time.
        upload_mb: Size of an uploaded file.
    """

    caption: int = 300
    variations: int = 4
    seconds: float = 60.0
    added: float = 10.0
    history: int = 20
    waiting: int = 16
    upload_mb: int = 20


@dataclass(frozen=True)
class Take:
    """A sound that was made.

    Attributes:
        file: WAV file.
        title: What was done, in a few words.
        caption: What was drawn.
        settings: Everything that makes the sound again from the same input.
        seconds: Duration.
        warning: What is wrong with its level, if anything.
    """

    file: Path
    title: str
    caption: str
    settings: dict[str, Any]
    seconds: float
    warning: str | None

    @property
    def details(self) -> dict[str, Any]:
        """All fields, as JSON."""
        return asdict(self) | {"file": self.file.name}


@dataclass
class Session:
    """What one visitor has made, the newest last. Its files are deleted with it."""

    folder: Path | None = None
    takes: list[Take] = field(default_factory=list)
    latest: list[Take] = field(default_factory=list)  # of the last call
    count: int = 0  # of all takes, those that were dropped included

    def path_for(self, root: Path, words: str) -> Path:
        """Name the next file."""
        self.folder = self.folder or Path(tempfile.mkdtemp(prefix="session-", dir=root))
        self.count += 1
        return self.folder / f"{file_stem(self.count, words)}.wav"

    def add(self, takes: list[Take], most: int) -> None:
        """Keep new takes, and delete the oldest beyond ``most``."""
        self.latest = takes
        self.takes += takes
        for take in self.takes[:-most]:
            take.file.unlink(missing_ok=True)
        del self.takes[:-most]

    def close(self) -> None:
        """Delete all files."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder, self.takes, self.latest = None, [], []


class Studio:
    """A pipeline behind limits.

    Args:
        pipeline: The model.
        root: Existing folder for the files of sessions.
        model: Name or folder of the model, as the command line takes it.
        limits: What a call may ask for.
    """

    def __init__(self, pipeline: ImpactPipeline, root: Path, model: str = BUILTIN, limits: Limits | None = None):
        self.pipeline, self.root, self.model, self.limits = pipeline, root, model, limits or Limits()

    def generate(
        self,
        session: Session,
        caption: str,
        seconds: float,
        variations: int = 1,
        seed: int = 0,
        preset: str = "exact",
        progress: Progress | None = None,
    ) -> list[Take]:
        """Make variations of a caption, with the seeds ``seed``, ``seed`` + 1, ...

        Raises:
            UserError: An argument is missing or beyond the limits.
        """
        caption, preset = self._caption(caption), _choice("preset", preset, PRESETS)
        count = _whole("variations", variations, 1, self.limits.variations)
        seed = _whole("seed", seed, 0, SEED_LIMIT - self.limits.variations)
        longest = self.pipeline.max_duration
        seconds = _number("seconds", seconds, 0.1, math.floor(longest * 100 + 1e-6) / 100)
        seeds = range(seed, seed + count)
        sounds = self.pipeline(caption, seconds, seeds=seeds, preset=preset, progress=progress or False)
        takes = []
        for own, waveform in zip(seeds, sounds.waveforms, strict=True):
            file = session.path_for(self.root, caption)
            save_audio(file, waveform, sounds.sample_rate)
            settings = {
                "seed": own,
                "seconds": seconds,
                "preset": preset,
                "command": self._command(caption, own, seconds, preset),
            }
            warning = measure_level(waveform, sounds.sample_rate).warning
            takes.append(Take(file, caption, caption, settings, len(waveform) / sounds.sample_rate, warning))
        session.add(takes, self.limits.history)
        return takes

    def replace(
        self,
        session: Session,
        sound: str | Path | None,
        caption: str,
        start: float,
        end: float,
        seed: int = 0,
        preset: str = "exact",
        progress: Progress | None = None,
    ) -> list[Take]:
        """Replace the part of a sound from ``start`` to ``end``, in seconds, by what the caption says."""
        region = _number("start", start), _number("end", end)
        return self._edited(
            session, sound, caption, seed, preset, progress,
            f"replace {region[0]:.2f} to {region[1]:.2f} s", {"start": region[0], "end": region[1]},
            lambda recording, text, options: self.pipeline.edit(recording, text, [region], **options),
        )  # fmt: skip

    def extend(
        self,
        session: Session,
        sound: str | Path | None,
        caption: str,
        seconds: float,
        side: str = "end",
        seed: int = 0,
        preset: str = "exact",
        progress: Progress | None = None,
    ) -> list[Take]:
        """Make a sound longer by ``seconds`` at its start, end, or both."""
        seconds = _number("seconds", seconds, 0.1, self.limits.added)
        side = _choice("side", side, SIDES)
        return self._edited(
            session, sound, caption, seed, preset, progress,
            f"extend by {seconds:g} s ({side})", {"seconds": seconds, "side": side},
            lambda recording, text, options: self.pipeline.extend(recording, text, seconds, side, **options),
        )  # fmt: skip

    def vary(
        self,
        session: Session,
        sound: str | Path | None,
        caption: str,
        share: float = 0.3,
        seed: int = 0,
        preset: str = "exact",
        progress: Progress | None = None,
    ) -> list[Take]:
        """Draw a random share of a sound again."""
        share = _number("share", share, 0.01, 1)
        return self._edited(
            session, sound, caption, seed, preset, progress, f"vary {share:.0%}", {"share": share},
            lambda recording, text, options: self.pipeline.vary(recording, text, share, **options),
        )  # fmt: skip

    def loop(
        self,
        session: Session,
        sound: str | Path | None,
        caption: str,
        seam: float = 1.0,
        seed: int = 0,
        preset: str = "exact",
        progress: Progress | None = None,
    ) -> list[Take]:
        """Let the end of a sound lead into its beginning."""
        seam = _number("seam", seam, 0.08, self.limits.seconds / 2)
        return self._edited(
            session, sound, caption, seed, preset, progress, f"loop with a seam of {seam:g} s", {"seam": seam},
            lambda recording, text, options: self.pipeline.loop(recording, text, seam=seam, **options),
        )  # fmt: skip

    def open(self, sound: str | Path | None) -> Recording:
        """Open a sound to edit.

        Raises:
            UserError: There is none, it is not audio, or it is too long.
        """
        if not sound:
            raise UserError("no sound to edit: upload one, or press “Edit this sound” under a sound")
        with _without_folder(Path(sound)):
            recording = open_sound(Path(sound))
        if recording.duration > self.limits.seconds:
            raise UserError(
                f"the sound lasts {recording.duration:.1f} s, and this page edits up to {self.limits.seconds:g} s: "
                "cut out a part"
            )
        return recording

    def _edited(
        self,
        session: Session,
        sound: str | Path | None,
        caption: str,
        seed: int,
        preset: str,
        progress: Progress | None,
        title: str,
        settings: dict[str, Any],
        operation: Callable[[EditedAudio, str, dict[str, Any]], EditedAudio],
    ) -> list[Take]:
        caption = self._caption(caption)
        seed, preset = _whole("seed", seed, 0, SEED_LIMIT - 1), _choice("preset", preset, PRESETS)
        recording = self.open(sound)
        assert sound  # checked by open
        with _without_folder(Path(sound)):
            given = EditedAudio(recording, (), (), seed)
            edited = operation(given, caption, {"seed": seed, "preset": preset, "progress": progress or False})
            file = edited.save(session.path_for(self.root, f"{title.split()[0]} {caption}"))
        settings = {"of": Path(sound).name, **settings, "seed": seed, "preset": preset}
        level = measure_level(edited.waveform.mean(dim=0), edited.sample_rate)
        take = Take(file, f"{title}: {caption}", caption, settings, edited.duration, level.warning)
        session.add([take], self.limits.history)
        return [take]

    def _caption(self, caption: str | None) -> str:
        caption = " ".join((caption or "").split())
        if not caption:
            raise UserError("no caption: say in a few words what to hear, such as “a dog barks”")
        if len(caption) > self.limits.caption:
            raise UserError(f"the caption has {len(caption)} characters: use at most {self.limits.caption}")
        return caption

    def _command(self, caption: str, seed: int, seconds: float, preset: str) -> str:
        model = [] if self.model == BUILTIN else ["--model", self.model]
        options = ["--seed", f"{seed}", "--duration", f"{seconds:g}", "--preset", preset]
        return shlex.join(["impact", "generate", caption, *options, *model])


@contextmanager
def _without_folder(path: Path) -> Iterator[None]:
    """Name an uploaded file in errors without the server's folder."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(f"{path.parent}{os.sep}", "")) from None


def waveform_of(recording: Recording) -> torch.Tensor:
    """Return the mono mix (S,) of a recording, float32."""
    return torch.from_numpy(recording.samples().mean(axis=1).astype(np.float32))


def _number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{name} = {value!r}: give a number")
    if not low <= value <= high:
        raise UserError(f"{name} = {value:g}: choose from {low:g} to {high:g}")
    return float(value)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if _number(name, value, low, high) != int(value):
        raise UserError(f"{name} = {value:g}: give a whole number")
    return int(value)


def _choice(name: str, value: Any, choices: Any) -> str:
    if value not in tuple(choices):
        raise UserError(f"{name} = {value!r}: choose {', '.join(choices)}")
    return value
