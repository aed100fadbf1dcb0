"""Several manifests -> one, for example AudioCaps and WavCaps -> the captioned clips of stage 2.

Records keep their ids, which must differ between the manifests, and their splits; paths are written anew.

example: python -m impact_pl.datasets.join --manifests audiocaps.jsonl wavcaps.jsonl --out ac_wc/manifest.jsonl
"""

from pathlib import Path

from impact_pl.data.manifest import read_manifest
from impact_pl.datasets.base import Collection, finish, parser_of
from impact_pl.errors import UserError, user_errors


@user_errors
def main(argv: list[str] | None = None) -> None:
    parser = parser_of("impact_pl.datasets.join", __doc__)
    parser.add_argument("--manifests", type=Path, nargs="+", required=True, help="the manifests to join")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    args = parser.parse_args(argv)
    collection = Collection()
    place_of: dict[str, Path] = {}
    for path in args.manifests:
        for record in read_manifest(path):
            first = place_of.setdefault(record.id, path)
            if first != path:
                raise UserError(f"the id {record.id!r} is in {first} and in {path}: a clip can stand in one only")
            collection.records.append(record)
    finish(collection, args.out, "")


if __name__ == "__main__":
    main()
