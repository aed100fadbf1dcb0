"""Read test lists, which select the clips of a test set with one caption each. Papers use different lists.

AudioCaps' test set has 975 clips with five captions each. Papers use subsets of it, with one caption per clip:

| name | clips | published by |
|---|---|---|
| audioldm_eval_964 | 964 | haoheliu/audioldm_eval |
| fdaudio_957 | 957 | FdAudio and MeanAudio |
| tango_886 | 886 | declare-lab/tango |
| stable_audio_881 | 881 | Stability-AI/stable-audio-metrics (the clips that it does not exclude) |
| audiocaps_975 | 975 | the complete set |

A list is identified by the checksum of its clips, independent of its format, order and captions.

Note:
    The checksums in ``KNOWN`` were computed from the published files, with each clip under its :func:`clip_id`:
    audioldm_eval's example/AudioCaps/audiocaps_test_nonrepeat_subset_2.json (commit c9e936e; key "wav"), MeanAudio's
    sets/test-audiocaps.tsv, Tango's data/test_audiocaps_subset.json (key "location"), dataset/test.csv of AudioCaps
    (cdjkim/audiocaps), and, for stable_audio_881, that CSV without the ids in NOT_IN_AUDIOCAPS of stable-audio-metrics'
    examples/audiocaps.py.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from impact_pl.audio import SUFFIXES
from impact_pl.data.manifest import Record, file_stem
from impact_pl.errors import UserError
from impact_pl.files import read_csv, read_lines

Sounds = dict[str, Record]  # name (file stem, or record id) -> location of the sound

KNOWN = {  # the first 16 digits of ClipList.checksum -> name
    "16cba7a64b5aaf5b": "audioldm_eval_964",
    "123e794c268e6414": "fdaudio_957",
    "50196945c3f58155": "tango_886",
    "e8dc9401ff0dac47": "stable_audio_881",
    "c66b044fcc44f855": "audiocaps_975",
}
YOUTUBE = re.compile(r"Y?([\w-]{11})(?:_\d+(?:\.\d+)?){0,2}")  # [Y]<id>[_<start>[_<end>]]; an id has 11 characters
SOURCES = ("youtube", "clotho")  # sources whose records name the clip: ``youtube/<id>``, ``clotho/<file name>``
NAMED = 5  # maximum number of names in a message


@dataclass(frozen=True)
class ClipList:
    """Clips in file order: id -> caption, and id -> name in the file."""

    captions: dict[str, str]
    names: dict[str, str] = field(default_factory=dict)

    @property
    def checksum(self) -> str:
        """Checksum of the set of clips."""
        return hashlib.sha256("\n".join(sorted(self.captions)).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Name of a known list, else ``custom (N clips)``."""
        return KNOWN.get(self.checksum, f"custom ({len(self.captions)} clips)")


def clip_id(name: str) -> str:
    """Normalise a clip's name to its id: its :func:`clip_stem` without YouTube's leading Y and trailing seconds.

    ``Y7fmOlUlwoNg``, ``7fmOlUlwoNg_20`` and ``7fmOlUlwoNg.wav`` are the same clip. The id of a stem or of an id is the
    same id again.
    """
    stem = clip_stem(name)
    youtube = YOUTUBE.fullmatch(stem)
    return youtube[1] if youtube else stem


def clip_stem(name: str) -> str:
    """Return the name of a clip's file without folder and audio suffix, as written by :func:`file_stem`."""
    name = Path(name).name
    while Path(name).suffix.lower() in SUFFIXES:
        name = Path(name).stem
    return file_stem(name)


def read_clip_list(path: str | Path) -> ClipList:
    """Read a published list: CSV ``id,caption``, TSV ``id<tab>caption``, or AudioCaps' own CSV.

    If a clip has several captions (AudioCaps' CSV), one is drawn deterministically by the clip's name.

    Raises:
        UserError: The file is missing or empty or has other columns, a row lacks id or caption or has more cells than
            the header (an unquoted comma in a caption), or a clip is listed twice.
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
    """Select the sounds of the list's clips, sorted by clip id (the order of an inception score's splits).

    Args:
        sounds: Sounds by name; :func:`clip_of` maps them to clips.
        clips: The list.
        what: Description of the sounds, for messages.
        exactly: Whether sounds outside the list are an error.

    Raises:
        UserError: A clip has no sound or two, or a sound is not in the list. The message names some.
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
    """Index sounds by clip id. Several records of one sound (with different captions) count as one.

    Raises:
        UserError: A clip has two sounds; the message begins with ``what``.
    """
    found: Sounds = {}
    for name, record in sounds.items():
        first = found.setdefault(clip_of(name, record), record)
        if (first.path, first.start) != (record.path, record.start):
            raise UserError(f"{what}: the clip {clip_of(name, record)} has two sounds, {first.path} and {record.path}")
    return found


def one_of(clip: str, captions: list[str]) -> str:
    """Draw one of a clip's captions. The draw depends on the clip's name only, so every command draws the same."""
    return captions[int.from_bytes(hashlib.sha256(clip.encode()).digest()[:8], "big") % len(captions)]


def clip_of(name: str, record: Record) -> str:
    """Return the clip id of a sound, from its YouTube or Clotho source if the record has one, else from its name."""
    published, _, source = record.source.partition("/")
    return clip_id(source if source and published in SOURCES else name)


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
