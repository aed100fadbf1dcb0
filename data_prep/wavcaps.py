"""WavCaps: its published JSON parts and a local folder of its audio -> manifest.jsonl.

A part is {"data": [{"id", "caption", "duration", ...}, ...]}; a clip is searched by its id, anywhere under the folder.

example: python -m impact_pl.data_prep.wavcaps --json json_files/*/*.json --audio wavcaps --out wavcaps.jsonl
"""

import json
from pathlib import Path

from impact_pl.data.manifest import Record
from impact_pl.data_prep.collect import SUFFIXES, Collection, by_stem, finish, read_text, split_of
from impact_pl.data_prep.command import parser_of
from impact_pl.errors import user_errors


@user_errors
def main(argv: list[str] | None = None) -> None:
    parser = parser_of("wavcaps", __doc__)
    parser.add_argument("--json", type=Path, nargs="+", required=True, help="one JSON part or several")
    parser.add_argument("--audio", type=Path, required=True, help="folder of audio files")
    parser.add_argument("--valid-share", type=float, default=0.0, help="share for validation (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    args = parser.parse_args(argv)
    parts = {path: read_part(path) for path in args.json}
    finish(collect(parts, by_stem(args.audio), args.valid_share), args.out, f"<id> under {args.audio}")


def read_part(path: Path) -> list[dict]:
    """The entries of a part.

    Raises:
        ValueError: not such a JSON file, an entry without id or caption, or no entries.
    """
    try:
        values = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error.msg} in line {error.lineno})") from error
    entries = values.get("data") if isinstance(values, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'{path}: expected {{"data": [{{"id", "caption", ...}}, ...]}} with at least one entry')
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or "id" not in entry or not isinstance(entry.get("caption"), str):
            raise ValueError(f"{path}: entry {number} of data needs the keys 'id' and 'caption'")
    return entries


def collect(parts: dict[Path, list[dict]], files: dict[str, Path], valid_share: float) -> Collection:
    """Records named ``wavcaps/<part>/<id>``; the id's own audio suffix (AudioSet's part has one) does not count."""
    collection = Collection()
    for part, entries in parts.items():
        for entry in entries:
            name = str(entry["id"])
            stem = Path(name).stem if Path(name).suffix.lower() in SUFFIXES else name
            if stem not in files:
                collection.missing.append(name)
                continue
            record = Record(f"wavcaps/{part.stem}/{stem}", str(files[stem]), caption=entry["caption"].strip() or None)
            record.source, record.split = record.id, split_of(record.id, valid_share)
            collection.records.append(record)
    return collection


if __name__ == "__main__":
    main()
