"""Read test lists: which clips of a test set are used, with a caption each. Papers differ in them, so they are named.

AudioCaps' test set has 975 clips of five captions. Papers use subsets of it, with one caption per clip:

| name | clips | published by |
|---|---|---|
| audioldm_eval_964 | 964 | haoheliu/audioldm_eval |
| fdaudio_957 | 957 | FdAudio and MeanAudio |
| tango_886 | 886 | declare-lab/tango |
| stable_audio_881 | 881 | Stability-AI/stable-audio-metrics (the clips that it does not leave out) |
| audiocaps_975 | 975 | the whole set |

A list is known by the checksum of its clips, whatever its format, its order and its captions.

Note:
    The checksums in ``KNOWN`` were computed from the published files, each clip under its :func:`clip_id`:
    audioldm_eval's example/AudioCaps/audiocaps_test_nonrepeat_subset_2.json (commit c9e936e; key "wav"), MeanAudio's
    sets/test-audiocaps.tsv, Tango's data/test_audiocaps_subset.json (key "location"), dataset/test.csv of AudioCaps
    (cdjkim/audiocaps), and, for stable_audio_881, that CSV without the ids in NOT_IN_AUDIOCAPS of
    stable-audio-metrics' examples/audiocaps.py.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from impact_pl.audio import SUFFIXES
from impact_pl.data.manifest import Record, file_stem
from impact_pl.errors import UserError
from impact_pl.files import read_csv, read_lines

Sounds = dict[str, Record]  # name (file stem, or record id) -> where the sound lies

KNOWN = {  # the first 16 digits of ClipList.checksum -> name
    "16cba7a64b5aaf5b": "audioldm_eval_964",
    "123e794c268e6414": "fdaudio_957",
    "50196945c3f58155": "tango_886",
    "e8dc9401ff0dac47": "stable_audio_881",
    "c66b044fcc44f855": "audiocaps_975",
}
YOUTUBE = re.compile(r"Y?([\w-]{11})(?:_\d+(?:\.\d+)?){0,2}")  # [Y]<id>[_<start>[_<end>]]; an id has 11 characters
SOURCES = ("youtube", "clotho")  # whose records name the clip: ``youtube/<id>``, ``clotho/<file name>``
NAMED = 5  # names in a message


@dataclass(frozen=True)
class ClipList:
    """Clips in the order of their file: id -> caption, and id -> the name that the file gives it."""

    captions: dict[str, str]
    names: dict[str, str] = field(default_factory=dict)

    @property
    def checksum(self) -> str:
        """Of the set of clips alone."""
        return hashlib.sha256("\n".join(sorted(self.captions)).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """A known list's name, else ``custom (N clips)``."""
        return KNOWN.get(self.checksum, f"custom ({len(self.captions)} clips)")


def clip_id(name: str) -> str:
    """What a clip is called in every list: its :func:`clip_stem` without YouTube's leading Y and the seconds behind it.

    ``Y7fmOlUlwoNg``, ``7fmOlUlwoNg_20`` and ``7fmOlUlwoNg.wav`` are one clip. A file that is named by the stem, or by
    the id, has the same id again.
    """
    stem = clip_stem(name)
    youtube = YOUTUBE.fullmatch(stem)
    return youtube[1] if youtube else stem


def clip_stem(name: str) -> str:
    """The name of a clip's file, without folder and audio suffix, as :func:`file_stem` writes it."""
    name = Path(name).name
    while Path(name).suffix.lower() in SUFFIXES:
        name = Path(name).stem
    return file_stem(name)


def read_clip_list(path: str | Path) -> ClipList:
    """A published list: CSV ``id,caption``, TSV ``id<tab>caption``, or AudioCaps' own CSV.

    Where a clip has several captions (AudioCaps' CSV), one is drawn, always the same: the draw depends on the clip.

    Raises:
        UserError: missing or empty file, no such columns, a row without id or caption or with more cells than the
            header (a caption whose comma is not quoted), or a clip that stands twice.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such test list")
    header = next(iter(read_lines(path)), "")
    delimiter = "\t" if "\t" in header else ","
    rows = read_csv(path, delimiter=delimiter)
    columns = list(rows[0].cells)
    key = next((each for each in ("id", "youtube_id") if each in columns), None)
    if key is None or "caption" not in columns:
        raise UserError(
            f"{path}: its columns are {', '.join(columns)}; a test list has id,caption (comma or tab), "
            "or AudioCaps' audiocap_id,youtube_id,start_time,caption"
        )
    captions: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for line, row in rows:
        if not row[key] or not row["caption"].strip():
            raise UserError(f"{path}, line {line}: a clip and its caption are needed, got {list(row.values())}")
        clip = clip_id(row[key])
        if key == "id" and clip in captions:
            raise UserError(f"{path}, line {line}: the clip {row[key]!r} stands twice: remove one")
        names.setdefault(clip, row[key])
        captions.setdefault(clip, []).append(row["caption"].strip())
    return ClipList({clip: one_of(clip, several) for clip, several in captions.items()}, names)


def restrict(sounds: Sounds, clips: ClipList, what: str, exactly: bool) -> Sounds:
    """The sounds of the list's clips, by clip id, sorted by it (an inception score's splits follow that order).

    Args:
        sounds: by name; :func:`clip_of` says which clip each is.
        what: for the message.
        exactly: sounds that the list does not name are an error too.

    Raises:
        UserError: a clip without a sound, with two, or a sound that is not in the list. Some are named.
    """
    found = by_clip(sounds, what)
    missing = [clip for clip in clips.captions if clip not in found]
    extra = [clip for clip in found if clip not in clips.captions] if exactly else []
    if missing or extra:
        parts = [f"{len(missing)} of {len(clips.captions)} clips have no sound ({_some(missing)})"] if missing else []
        parts += [f"{len(extra)} sounds are not in the list ({_some(extra)})"] if extra else []
        raise UserError(f"{what} does not match the test list {clips.name}: {'; '.join(parts)}")
    return {clip: found[clip] for clip in sorted(clips.captions)}


def by_clip(sounds: Sounds, what: str) -> Sounds:
    """Sounds by clip id; several records of one sound (of several captions) are one.

    Raises:
        UserError: a clip has two sounds; ``what`` begins the message.
    """
    found: Sounds = {}
    for name, record in sounds.items():
        first = found.setdefault(clip_of(name, record), record)
        if (first.path, first.start) != (record.path, record.start):
            raise UserError(f"{what}: the clip {clip_of(name, record)} has two sounds, {first.path} and {record.path}")
    return found


def one_of(clip: str, captions: list[str]) -> str:
    """One of a clip's captions: the draw depends on the clip's name alone, so every command draws the same."""
    return captions[int.from_bytes(hashlib.sha256(clip.encode()).digest()[:8], "big") % len(captions)]


def clip_of(name: str, record: Record) -> str:
    """The clip id of a sound: of its YouTube or Clotho source where the record tells it, else of its name."""
    published, _, source = record.source.partition("/")
    return clip_id(source if source and published in SOURCES else name)


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
