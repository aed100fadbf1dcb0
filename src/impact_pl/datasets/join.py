"""Join several manifests, for example AudioCaps and WavCaps for stage 2.

Records keep their splits and their ids, which must differ between the manifests. Paths are rewritten.

example: impact data join --manifests audiocaps.jsonl wavcaps.jsonl --out ac_wc/manifest.jsonl
"""

from pathlib import Path

from impact_pl.data.manifest import read_manifest
from impact_pl.datasets.base import Collection, write_collection
from impact_pl.errors import UserError


def make_manifest(manifests: list[Path], out: Path) -> Collection:
    """Write one manifest with all records of several."""
    collection = Collection()
    place_of: dict[str, Path] = {}
    for path in manifests:
        for record in read_manifest(path):
            first = place_of.setdefault(record.id, path)
            if first != path:
                raise UserError(f"the id {record.id!r} is in {first} and in {path}: ids must be unique")
            collection.records.append(record)
    return write_collection(collection, out, "")
