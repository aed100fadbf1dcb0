"""Take out of a manifest what no model should learn from: damaged, too short, silent, clipped, and near-duplicates.

Near-duplicates are found by the cosine of YAMNet's mean embedding: re-encoded, cut or renamed copies of one recording,
which no checksum finds (the embedding hears levels, so a much quieter copy passes). Of two that are alike the held-out
one stays, so that nothing that is judged was trained on; else the captioned or longer one. What is left out goes to
rejected.jsonl with its reason, beside the manifest; measures.csv lists peak, level and share of clipped samples of
every clip. No sound is changed. Features are kept in the folder features, so the same command continues where it
stopped.

example: python -m data_prep.corpus.clean --manifest all/manifest.jsonl --out clean/manifest.jsonl
"""

import csv
import json
from collections import Counter
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import numpy as np

from impact_pl.audio import read_samples, to_mono
from impact_pl.cli.data import print_collection
from impact_pl.cli.options import parser_of
from impact_pl.data.manifest import Record, read_manifest
from impact_pl.datasets.base import Collection, write_collection
from impact_pl.errors import UserError, user_errors
from impact_pl.evaluation.cache import extract
from impact_pl.evaluation.networks.yamnet import ACTIVE_RANGE_DB, YamNet
from impact_pl.precompute.segments import Reject, record_seconds
from impact_pl.progress import progress

SHORTEST_SECONDS = 0.25
SILENT_DB = -50.0  # of the loudest tenth of a second
FULL_SCALE = 0.999
CLIPPED_SHARE = 0.02  # of all samples
COSINE = 0.98  # in 4,600 clips of packages: above it copies, and takes and drum hits that few could tell apart
DURATION_RATIO = 0.8  # copies last equally long
HELD_OUT_FIRST = {"test": 0, "valid": 1, "train": 2}


@dataclass
class Limits:
    """What is left out; the defaults are the command's."""

    shortest: float = SHORTEST_SECONDS
    silent_db: float = SILENT_DB
    clipped_share: float = CLIPPED_SHARE
    cosine: float = COSINE


@dataclass
class Measures:
    """A line of measures.csv: what a clip's samples are like, before any resampling."""

    id: str
    seconds: float
    sample_rate: int
    channels: int
    peak: float
    loudest_db: float  # RMS of the loudest tenth of a second, in dB of full scale
    clipped_share: float


@user_errors
def main(argv: list[str] | None = None) -> None:
    parser = parser_of("python -m data_prep.corpus.clean", __doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="the manifest to clean")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    for field, text in (
        ("shortest", "seconds that a clip has to last"),
        ("silent_db", "a clip whose loudest tenth of a second is below is silent, in dB of full scale"),
        ("clipped_share", "share of samples at full scale from which a clip is clipped"),
        ("cosine", "of two embeddings, from which clips are near-duplicates; above 1 keeps all"),
    ):
        name, default = f"--{field.replace('_', '-')}", getattr(Limits, field)
        parser.add_argument(name, type=float, default=default, help=f"{text} (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.out.resolve() == args.manifest.resolve():
        raise UserError(f"--out {args.out} is the manifest itself: write another file")
    limits = Limits(args.shortest, args.silent_db, args.clipped_share, args.cosine)
    clean(read_manifest(args.manifest), args.out, limits)


def clean(records: list[Record], out: Path, limits: Limits) -> list[Record]:
    """Write ``out``, rejected.jsonl and measures.csv beside it; returns the records that are left."""
    rejects: list[Reject] = []
    measures = []
    sound: list[Record] = []
    with progress("measuring", len(records), unit="clips") as shown:
        for record in records:
            shown.advance()
            try:
                found = measure(record)
                measures.append(found)
                check(found, limits)
                sound.append(record)
            except ValueError as error:
                rejects.append(Reject(record.id, record.path, record.start, str(error)))
    if sound and limits.cosine <= 1:
        copies = near_duplicates(sound, embeddings(sound, out.parent / "features"), limits.cosine)
        rejects += [Reject(sound[i].id, sound[i].path, sound[i].start, reason) for i, reason in sorted(copies.items())]
        sound = [record for i, record in enumerate(sound) if i not in copies]
    out.parent.mkdir(parents=True, exist_ok=True)
    print_collection(write_collection(Collection(list(sound)), out, ""), out)
    write_rejects(rejects, out.with_name("rejected.jsonl"))
    with open(out.with_name("measures.csv"), "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(field.name for field in fields(Measures))
        table.writerows(astuple(each) for each in measures)
    return sound


def measure(record: Record) -> Measures:
    """Peak, level and clipping of a clip's own samples.

    Raises:
        ValueError: it cannot be read, or `load_audio` would refuse its samples.
    """
    try:
        samples, rate = read_samples(record.path, record.start, record.duration)  # (S, channels)
    except ValueError as error:
        raise UserError(f"unreadable: {error}") from error
    try:
        mono = to_mono(samples, record.path)
    except ValueError as error:
        raise UserError(f"unusable: {error}") from error
    tenth = max(1, rate // 10)
    power = np.square(np.pad(mono, (0, -len(mono) % tenth))).reshape(-1, tenth).mean(axis=1)
    magnitude = np.abs(samples)
    return Measures(
        record.id,
        seconds=round(len(samples) / rate, 3),
        sample_rate=rate,
        channels=samples.shape[1],
        peak=round(float(magnitude.max()), 4),
        loudest_db=round(10 * float(np.log10(max(power.max(), 1e-12))), 1),
        clipped_share=round(float((magnitude >= FULL_SCALE).mean()), 5),
    )


def check(found: Measures, limits: Limits) -> None:
    """ValueError with the reason why a clip cannot be used."""
    if found.seconds < limits.shortest:
        raise UserError(f"too short: {found.seconds:.3f} s, below {limits.shortest:g} s")
    if found.loudest_db < limits.silent_db:
        raise UserError(f"silent: its loudest tenth of a second is at {found.loudest_db:.1f} dB")
    if found.clipped_share > limits.clipped_share:
        raise UserError(f"clipped: {100 * found.clipped_share:.1f} % of its samples are at full scale")


def embeddings(records: list[Record], cache: Path) -> np.ndarray:
    """YAMNet's mean embedding of what sounds in each clip, of unit length: (N, 1024).

    Patches far below the loudest are left out: all sounds that end in silence would seem alike.
    """
    network = YamNet()
    with progress("embedding", len(records), unit="clips") as shown:
        features = extract(network, records, cache_dir=cache, progress=lambda done, total: shown.advance())
    active = [each.embeddings[each.levels >= each.levels.max() - ACTIVE_RANGE_DB] for each in features]
    stacked = np.stack([each.mean(axis=0) for each in active])
    return stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-9)


def near_duplicates(records: list[Record], unit: np.ndarray, cosine: float) -> dict[int, str]:
    """Index -> reason of each clip that another one, which stays, is nearly equal to.

    Args:
        records: the clips; held-out ones are looked at first and therefore stay, then captioned and long ones. Within
            a held-out split none is left out: a published test set stays whole.
        unit: their embeddings (N, 1024), of unit length.
        cosine: from which two clips of about equal length count as the same recording.
    """
    seconds = np.array([record_seconds(record) for record in records])
    places = [(record.path, record.start) for record in records]  # a clip with several captions is no copy of itself
    number = {each: i for i, each in enumerate(places)}
    place = np.array([number[each] for each in places])
    splits = np.array([record.split for record in records])

    def rank(i: int) -> tuple:
        return HELD_OUT_FIRST[records[i].split], records[i].caption is None, -seconds[i], i

    kept = np.zeros(len(records), dtype=bool)
    copies: dict[int, str] = {}
    for i in sorted(range(len(records)), key=rank):
        similar = unit @ unit[i]
        near = np.minimum(seconds, seconds[i]) >= DURATION_RATIO * np.maximum(seconds, seconds[i])
        other = (place != place[i]) & ((splits != splits[i]) | (splits[i] == "train"))
        alike = np.where(kept & near & other, similar, 0.0)
        j = int(alike.argmax())
        if alike[j] >= cosine:
            copies[i] = f"near-duplicate of {records[j].id} ({records[j].split}): cosine {alike[j]:.3f}"
        else:
            kept[i] = True
    return copies


def write_rejects(rejects: list[Reject], path: Path) -> None:
    """One JSON object a line, and the counts by the reason's first words on the terminal."""
    lines = [json.dumps(asdict(reject), ensure_ascii=False) + "\n" for reject in rejects]
    path.write_text("".join(lines), encoding="utf-8")
    counts = Counter(reject.reason.split(":")[0].split(" of ")[0] for reject in rejects)
    print(f"{path}: {len(rejects)} left out" + "".join(f"; {name}: {count}" for name, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
