"""Scenes of 5 and 10 s, composed of a manifest's captioned clips, with captions that say so.

Two or three recordings of one split follow each other ("a dog barks, then rain falls") or sound together ("rain falls
while a dog barks"), each brought to a level of its own. They are no recordings: the manifest of scenes stands apart,
each record's source begins with "composed" and names the parts, and <manifest>.parts.jsonl says where each part comes
from, where it begins and to which level it was brought. The same seed and clips give the same scenes.

example: python -m data_prep.corpus.scenes --manifest data/corpus/recordings.jsonl --out data/corpus/composed.jsonl
"""

import hashlib
import json
import random
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from data_prep.corpus.captions import is_clause
from impact_pl.audio import SAMPLE_RATE, load_audio, save_audio
from impact_pl.cli.options import parser_of
from impact_pl.data.manifest import Record, read_manifest, write_manifest
from impact_pl.errors import UserError, user_errors
from impact_pl.partial import sweep_partials
from impact_pl.precompute.segments import record_seconds
from impact_pl.progress import progress

LENGTHS = (5.0, 10.0)  # seconds
SHORTEST_PART = 0.7  # seconds: a click does not make a scene
LEVELS_DB = (-30.0, -16.0)  # of a part's RMS; drawn for each
LARGEST_PEAK = 0.95
FADE_SECONDS = 0.02
TOGETHER_SHARE = 0.4  # of the scenes: parts at once, not after each other
LONGEST_FOR_SHORT = 6.0  # seconds: what lasts longer becomes a scene of 10 s
LONGEST_GAP = 0.8  # seconds between parts
HELD_OUT_SHARE = 0.1  # of the number of training scenes, for each other split
THEN = ("{0}, then {1}", "{0} and then {1}", "first {0}, then {1}", "{0}, followed by {1}")
THEN_THREE = ("{0}, then {1}, then {2}", "{0}, then {1} and finally {2}")
TOGETHER = ("{0} and {1}", "{0} along with {1}")
WHILE = ("{0} while {1}", "{0} as {1}")  # a clause stands after them


@dataclass
class Part:
    """A clip's place in a scene."""

    id: str
    path: str
    offset: float  # in the clip, seconds
    seconds: float
    begin: float  # in the scene, seconds
    level_db: float  # RMS that it is brought to, less where its peaks would reach full scale


@dataclass
class Scene:
    """What one scene is made of."""

    caption: str
    seconds: float
    licence: str
    parts: list[Part]


@user_errors
def main(argv: list[str] | None = None) -> None:
    parser = parser_of("python -m data_prep.corpus.scenes", __doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="the recordings")
    parser.add_argument("--out", type=Path, required=True, help="the manifest of scenes; the sounds lie beside it")
    parser.add_argument("--count", type=int, default=2000, help="training scenes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    compose_scenes(read_manifest(args.manifest), args.out, args.count, args.seed)


def compose_scenes(records: list[Record], out: Path, count: int, seed: int) -> list[Record]:
    """Write the scenes and their manifest ``out``; what lies there already is not made again.

    Returns:
        The scenes' records as written: paths are relative to the manifest's folder.

    Raises:
        ValueError: no split has three captioned sources of usable length.
    """
    scenes: list[Record] = []
    parts: list[str] = []
    folder = out.parent / out.stem
    folder.mkdir(parents=True, exist_ok=True)
    sweep_partials(folder)
    for split in ("train", "valid", "test"):
        sources = _sources([record for record in records if record.split == split])
        if len(sources) < 3:
            continue
        wanted = count if split == "train" else round(count * HELD_OUT_SHARE)
        with progress(f"composing {split}", wanted, unit="scenes") as shown:
            for index in range(wanted):
                scene = plan_scene(sources, random.Random(f"{seed} {split} {index}"))
                scenes.append(_write(scene, split, index, folder))
                parts.append(json.dumps({"id": scenes[-1].id, "parts": [asdict(part) for part in scene.parts]}))
                shown.advance()
    if not scenes:
        raise UserError(f"no scene can be composed: 3 sources of {SHORTEST_PART:g} s with captions are needed a split")
    write_manifest(out, scenes)
    out.with_suffix(".parts.jsonl").write_text("".join(f"{line}\n" for line in parts), encoding="utf-8")
    print(f"{out}: {len(scenes)} composed scenes, {sum(scene.duration or 0 for scene in scenes) / 3600:.2f} hours")
    return scenes


def plan_scene(sources: dict[str, list[Record]], draw: random.Random) -> Scene:
    """Which clips, where, how loud, and the caption. Sources are drawn evenly, then one of their clips."""
    together = draw.random() < TOGETHER_SHARE
    number = 2 if together else draw.choice((2, 2, 3))
    chosen = [draw.choice(sources[name]) for name in draw.sample(sorted(sources), number)]
    chosen.sort(key=lambda record: together and is_clause(record.caption or ""))
    lasting = [record_seconds(record) for record in chosen]
    longest = max(lasting) if together else sum(min(each, max(LENGTHS) / number) for each in lasting)
    seconds = min(LENGTHS) if longest <= LONGEST_FOR_SHORT else max(LENGTHS)
    parts = []
    begin = 0.0
    for place, (record, lasts) in enumerate(zip(chosen, lasting, strict=True)):
        take = min(lasts, seconds if together else seconds / number)
        spare = lasts - take if lasts > 2 * take else 0.0  # short clips begin with what they are named after
        offset = record.start + draw.uniform(0.0, spare)
        if together:
            begin = draw.uniform(0.0, min(seconds - take, 0.3 * seconds))
        parts.append(Part(record.id, record.path, offset, take, begin, draw.uniform(*LEVELS_DB)))
        if not together:
            begin += take + min(draw.uniform(0.0, LONGEST_GAP), seconds * (place + 1) / number - begin - take)
    caption = word_scene([record.caption or "" for record in chosen], together, draw)
    licences = sorted({record.licence for record in chosen if record.licence})
    return Scene(caption, seconds, ", ".join(licences), parts)


def word_scene(captions: list[str], together: bool, draw: random.Random) -> str:
    """One caption of its parts', in one of several ways that grammar allows."""
    ways: tuple[str, ...]
    clause = is_clause(captions[-1])
    if together:
        ways = WHILE + TOGETHER[:1] if clause else TOGETHER
    elif len(captions) == 3:
        ways = THEN_THREE
    else:
        ways = THEN[:-1] if clause else THEN
    return draw.choice(ways).format(*captions)


def mix(scene: Scene) -> Tensor:
    """The scene's waveform (S,)."""
    mixture = torch.zeros(round(scene.seconds * SAMPLE_RATE))
    for part in scene.parts:
        waveform = load_audio(part.path, SAMPLE_RATE, part.offset, part.seconds)
        gain = 10 ** (part.level_db / 20) / waveform.square().mean().sqrt().clamp(min=1e-5)
        gain = torch.minimum(gain, LARGEST_PEAK / waveform.abs().max().clamp(min=1e-5))
        first = round(part.begin * SAMPLE_RATE)
        faded = _fade(waveform)[: len(mixture) - first] * gain
        mixture[first : first + len(faded)] += faded
    return mixture * (LARGEST_PEAK / mixture.abs().max().clamp(min=LARGEST_PEAK))


def _fade(waveform: Tensor) -> Tensor:
    length = min(round(FADE_SECONDS * SAMPLE_RATE), len(waveform) // 2)
    ramp = torch.ones_like(waveform)
    ramp[len(ramp) - length :] = torch.linspace(1.0, 0.0, length)
    ramp[:8] = torch.linspace(0.0, 1.0, 8)[: len(ramp)]  # an onset is not softened, a click is
    return waveform * ramp


def _write(scene: Scene, split: str, index: int, folder: Path) -> Record:
    path = folder / f"{split}-{index:05d}-{_digest(scene)}.flac"
    if not path.is_file():
        save_audio(path, mix(scene))
    source = "composed: " + " + ".join(part.id for part in scene.parts)
    return Record(
        f"composed/{path.stem}",
        f"{folder.name}/{path.name}",
        duration=scene.seconds,
        caption=scene.caption,
        split=split,
        licence=scene.licence,
        source=source,
    )


def _digest(scene: Scene) -> str:
    """Of all that the sound is made of: the recordings' bytes too, not where they lie, so that a corpus may move."""
    bytes_of = [hashlib.sha256(Path(part.path).read_bytes()).hexdigest() for part in scene.parts]
    made_of = [(part.id, part.offset, part.seconds, part.begin, part.level_db) for part in scene.parts]
    return hashlib.sha256(repr((scene.seconds, made_of, bytes_of)).encode()).hexdigest()[:12]


def _sources(records: list[Record]) -> dict[str, list[Record]]:
    """Source -> its captioned clips that are long enough."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.caption and record_seconds(record) >= SHORTEST_PART:
            found[record.source].append(record)
    return dict(found)


if __name__ == "__main__":
    main()
