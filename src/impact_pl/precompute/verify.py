"""Verify that a folder of shards matches its notes, and was made by the installed codec (`impact verify`)."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from impact_pl.codecs.registry import load_codec
from impact_pl.config import PrecomputeConfig
from impact_pl.data.index import INDEX_NAME, ShardEntry, ShardIndex
from impact_pl.data.manifest import SPLITS, read_manifest
from impact_pl.errors import UserError
from impact_pl.files import read_json, read_jsonl
from impact_pl.precompute.notes import RunNote, ShardNote, done_path, read_shard_note
from impact_pl.precompute.plan import manifest_identity, plan_shards, shard_path
from impact_pl.precompute.segments import Reject
from impact_pl.precompute.statistics import latent_statistics
from impact_pl.progress import progress
from impact_pl.text_encoders.registry import load_text_encoder

AGAIN = "run the impact precompute command that made it again"
FROM_SCRATCH = "delete the folder and precompute again"
CHUNK_BYTES = 1 << 22


def verify(config: PrecomputeConfig, given: set[str]) -> None:
    """Read every byte of ``config.out``, print a line for each finding, and summarise the content.

    Args:
        config: ``out``, and settings to compare with what the shards were made from, if they are ``given``.
        given: Keys that the user has set.

    Raises:
        UserError: There are no shards, or there are findings.
    """
    out = Path(config.out)
    folders = [out / split for split in SPLITS if (out / split).is_dir()]
    if not folders:
        raise UserError(f"{out}: no shards there (no folder {', '.join(SPLITS)}); out= names the folder to verify")
    total = sum(path.stat().st_size for folder in folders for path in folder.glob("*.tar"))
    findings, num_shards, num_samples = [], 0, 0
    with progress("verified", total, unit="bytes") as shown:
        for finding in _findings(config, given, folders, shown.advance):
            print(finding, flush=True)
            findings.append(finding)
    if findings:
        raise UserError(f"{out}: {len(findings)} finding(s), see above")
    for folder in folders:
        index = ShardIndex.load(folder)
        num_shards += len(index.shards)
        num_samples += index.num_samples
    print(f"{out}: {num_shards} shards, {num_samples} samples, {total / 1e6:.1f} MB: all sound")


def _findings(
    config: PrecomputeConfig, given: set[str], folders: list[Path], advance: Callable[[int], None]
) -> Iterator[str]:
    out = Path(config.out)
    run = None
    try:
        run = read_json(out / "run.json", RunNote, remedy=FROM_SCRATCH)
    except UserError as error:
        yield str(error) if (out / "run.json").is_file() else f"{out / 'run.json'}: missing; {FROM_SCRATCH}"
    noted = run.shards if run else None
    expected = {shard_path(out, split, i) for split in noted for i in range(noted[split])} if noted else None
    if "manifest" in given and run:
        if manifest_identity(config.manifest) != run.manifest:
            yield f"{out / 'run.json'}: made from another manifest than {config.manifest}; {FROM_SCRATCH}"
        else:
            shards = plan_shards(read_manifest(config.manifest), out, run.samples_per_shard)
            expected = {shard.path for shard in shards}
    indices: dict[Path, ShardIndex] = {}
    notes: dict[Path, ShardNote] = {}
    for folder in folders:
        yield from _split_findings(folder, expected, indices, notes, advance)
    gone = Counter(path.parent for path in expected or () if path.parent not in folders)
    for folder, count in sorted(gone.items()):
        yield f"{folder}: missing, with its {count} shard(s) and their index; {AGAIN}"
    if not gone:  # a missing split would only repeat itself in these findings
        if len(indices) == len(folders):
            yield from _statistics_findings(indices, notes)
        yield from _rejects_findings(out, notes)
    yield from _maker_findings(config, given, run, indices)
    for path in sorted(out.iterdir()):
        if path.name not in (*SPLITS, "run.json", "rejected.jsonl"):
            yield f"{path}: impact precompute did not write this; move it elsewhere"


def _split_findings(
    folder: Path,
    expected: set[Path] | None,
    indices: dict[Path, ShardIndex],
    notes: dict[Path, ShardNote],
    advance: Callable[[int], None],
) -> Iterator[str]:
    """Check a split's shards, notes and index. Those that can be read are added to ``indices`` and ``notes``."""
    entries: dict[str, ShardEntry] = {}
    try:
        indices[folder] = ShardIndex.load(folder)
        entries = {shard["name"]: shard for shard in indices[folder].shards}
    except UserError as error:
        yield str(error)
    names = {path.name for path in folder.iterdir()}
    shards = {folder / name for name in names if name.endswith(".tar")} | {folder / name for name in entries}
    shards |= {folder / name.replace(".done.json", ".tar") for name in names if name.endswith(".done.json")}
    shards |= {path for path in expected or () if path.parent == folder}
    known = {INDEX_NAME} | {path.name for path in shards} | {done_path(path).name for path in shards}
    for name in sorted(names - known):
        yield f"{folder / name}: impact precompute did not write this, or was killed while it did; delete it"
    for path in sorted(shards):
        if expected is not None and path not in expected:
            yield f"{path}: not one of the shards that this set was planned with; delete it and its .done.json"
        try:
            notes[path] = read_shard_note(path)
        except UserError as error:
            yield str(error) if done_path(path).is_file() else f"{path}: not marked as done; {AGAIN}"
        yield from _shard_findings(path, entries.get(path.name), notes.get(path), folder in indices, advance)


def _shard_findings(
    path: Path,
    entry: ShardEntry | None,
    note: ShardNote | None,
    has_index: bool,
    advance: Callable[[int], None],
) -> Iterator[str]:
    noted = note.shard if note else None
    if has_index and noted and (entry or noted["num_samples"]) and entry != noted:
        yield f"{path}: the index disagrees with {done_path(path).name}; delete {INDEX_NAME} and {AGAIN}"
    truth = noted or entry
    if not path.is_file():
        yield f"{path}: missing; {AGAIN}"
    elif truth is None:
        advance(path.stat().st_size)
    elif path.stat().st_size != truth["bytes"]:
        advance(path.stat().st_size)
        yield f"{path}: truncated ({path.stat().st_size} of {truth['bytes']} bytes); delete it and {AGAIN}"
    elif _sha256(path, advance) != truth["sha256"]:
        yield f"{path}: damaged (its checksum is not the one it was written with); delete it and {AGAIN}"


def _statistics_findings(indices: dict[Path, ShardIndex], notes: dict[Path, ShardNote]) -> Iterator[str]:
    """Compare the statistics in every index with those of the train split's notes."""
    names = [folder.name for folder in indices]
    measured = [path for path in sorted(notes) if path.parent.name == "train" or "train" not in names]
    measured.sort(key=lambda path: (SPLITS.index(path.parent.name), path.name))
    try:
        mean, std = latent_statistics(part for path in measured for part in notes[path].sums)
    except UserError as error:
        yield f"{next(iter(indices)).parent}: no statistics from the .done.json files ({error}); {FROM_SCRATCH}"
        return
    first = next(iter(indices.values()))
    for folder, index in indices.items():
        if not _close([*index.latents.get("mean", []), index.latents.get("std", 0.0)], [*mean, std]):
            yield f"{folder / INDEX_NAME}: mean and std are not those of the shards; delete it and {AGAIN}"
        if asdict(index) | {"shards": []} != asdict(first) | {"shards": []}:
            yield f"{folder / INDEX_NAME}: of another run than {next(iter(indices)).name}'s; delete it and {AGAIN}"


def _close(first: list[float], second: list[float]) -> bool:
    return len(first) == len(second) and all(
        abs(a - b) <= 1e-9 * max(1.0, abs(a)) for a, b in zip(first, second, strict=True)
    )


def _rejects_findings(out: Path, notes: dict[Path, ShardNote]) -> Iterator[str]:
    path = out / "rejected.jsonl"
    wanted = [reject for note in notes.values() for reject in note.rejected]
    try:
        found = [reject for _, reject in read_jsonl(path, Reject)]
    except UserError:
        found = None
    if found is None or sorted(map(str, found)) != sorted(map(str, wanted)):
        yield f"{path}: not what the .done.json files say; delete every {INDEX_NAME} and {AGAIN}"


def _maker_findings(
    config: PrecomputeConfig, given: set[str], run: RunNote | None, indices: dict[Path, ShardIndex]
) -> Iterator[str]:
    """Compare codec and text encoder in run.json, in every index, and as installed."""
    for kind, load in (("codec", load_codec), ("text_encoder", load_text_encoder)):
        made = [(Path(config.out) / "run.json", getattr(run, kind))] if run else []
        for folder, index in indices.items():
            maker = getattr(index, kind)
            made.append((folder / INDEX_NAME, f"{maker['name']} {maker['identity']}" if maker else None))
        for path, maker in made[1:]:
            if maker != made[0][1]:
                yield f"{path}: {kind} {maker}, but {made[0][0].name} says {made[0][1]}; {FROM_SCRATCH}"
        if not made or made[0][1] is None:
            continue
        name, _, identity = made[0][1].rpartition(" ")
        wanted = getattr(config, kind) if kind in given else name
        try:
            here = load(wanted).identity
        except UserError as error:
            yield f"{made[0][0]}: its {kind} cannot be compared ({error}); pass {kind}=... where it is now"
            continue
        if here != identity:
            yield f"{made[0][0]}: stale {kind}: made by {name} {identity}, here is {wanted} {here}; {FROM_SCRATCH}"


def _sha256(path: Path, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
