"""`impact data SET`: convert a data set's published files and a folder of its audio to manifest.jsonl."""

import argparse
import ast
import difflib
import importlib
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from impact_pl.cli.options import parser_of
from impact_pl.data.manifest import SPLITS
from impact_pl.errors import UserError, user_errors

if TYPE_CHECKING:  # imports torch
    from impact_pl.datasets.base import Collection

SHOWN = 10  # number of missing clips to print
HELP = """
usage: impact data SET ...

Write the manifest of a data set: one JSON line per clip, with its file, caption, split, source and labels. `impact
precompute` and `impact evaluate` read it.

  folder       your own sounds, with or without captions
  audiocaps    AudioCaps
  audioset     AudioSet, without captions (stage 1)
  clotho       Clotho
  esc50        ESC-50
  fsd50k       FSD50K
  wavcaps      WavCaps
  join         several manifests -> one

  impact data folder --audio my_sounds --captions my_sounds/captions.csv --out manifest.jsonl
  impact data SET --help     the files and options of a set
"""


def add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--audio", type=Path, required=True, help="folder of audio files")
    parser.add_argument("--captions", type=Path, help="captions, .csv or .jsonl")
    parser.add_argument(
        "--valid-share", type=float, default=0.1, help="held-out share, if there are no splits (default: %(default)s)"
    )
    parser.add_argument("--licence", default="", help="licence of clips for which none is given")


def add_audiocaps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--csv", dest="table", type=Path, required=True, metavar="CSV", help="train, val or test.csv")
    _add_audio_and_split(parser)


def add_audioset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--csv", dest="tables", metavar="CSV", type=Path, nargs="+", required=True, help="segments")
    parser.add_argument("--labels", type=Path, help="class_labels_indices.csv or ontology.json")
    _add_audio_and_split(parser)
    _add_exclude(parser)


def add_clotho(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--csv", dest="table", metavar="CSV", type=Path, required=True, help="captions of a split")
    _add_audio_and_split(parser)
    parser.add_argument(
        "--captions",
        dest="num_captions",
        metavar="N",
        type=int,
        choices=[1, 5],
        default=5,
        help="per clip (default: %(default)s)",
    )


def add_esc50(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--csv", dest="table", metavar="CSV", type=Path, required=True, help="meta/esc50.csv")
    parser.add_argument("--audio", type=Path, required=True, help="folder of audio files")
    for name, default in (("valid", 4), ("test", 5)):
        parser.add_argument(
            f"--{name}-fold",
            type=int,
            choices=range(1, 6),
            default=default,
            help=f"the fold of the {name} split (default: %(default)s)",
        )
    parser.add_argument("--esc10", action="store_true", help="only the clips of ESC-10")
    parser.add_argument("--label-captions", action="store_true", help="use the category's name as the caption")


def add_fsd50k(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--csv", dest="tables", metavar="CSV", type=Path, nargs="+", required=True, help="dev.csv, eval.csv"
    )
    parser.add_argument("--audio", type=Path, required=True, help="folder of audio files")
    parser.add_argument("--info", type=Path, nargs="+", default=[], help="*_clips_info_FSD50K.json, for the licences")
    parser.add_argument("--label-captions", action="store_true", help="use the labels' names as the caption")


def add_wavcaps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", dest="parts", metavar="JSON", type=Path, nargs="+", required=True, help="its parts")
    parser.add_argument("--audio", type=Path, required=True, help="folder of audio files")
    parser.add_argument("--valid-share", type=float, default=0.0, help="share for validation (default: %(default)s)")
    parser.add_argument("--seconds", type=float, metavar="S", help="take at most the first S seconds of each clip")
    _add_exclude(parser)


def add_join(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--manifests", type=Path, nargs="+", required=True, help="manifests to join")


def _add_audio_and_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--audio", type=Path, required=True, help="folder of audio files")
    parser.add_argument("--split", choices=SPLITS, default="train", help="split of all clips (default: %(default)s)")


def _add_exclude(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--exclude",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="leave these clips out: WavCaps' blacklist_*.json, test lists, AudioCaps' CSV",
    )


SETS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "folder": add_folder,
    "audiocaps": add_audiocaps,
    "audioset": add_audioset,
    "clotho": add_clotho,
    "esc50": add_esc50,
    "fsd50k": add_fsd50k,
    "wavcaps": add_wavcaps,
    "join": add_join,
}


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Run ``impact data``. Each option is passed to the set's ``make_manifest`` as the parameter of that name."""
    argv = sys.argv[1:] if argv is None else argv
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(HELP.strip())
        return
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=1)
        suggestion = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"there is no data set {name!r}{suggestion} (choose one of {', '.join(SETS)})")
    parser = build_parser(name)
    arguments = vars(parser.parse_args(argv[1:]))
    collection = importlib.import_module(f"impact_pl.datasets.{name}").make_manifest(**arguments)
    print_collection(collection, arguments["out"])


def build_parser(name: str) -> argparse.ArgumentParser:
    parser = parser_of(f"impact data {name}", docstring_of(f"impact_pl.datasets.{name}"))
    SETS[name](parser)
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    return parser


def docstring_of(module: str) -> str:
    """Read a module's docstring without importing it, because the data sets' modules need torch."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def print_collection(collection: "Collection", out: Path) -> None:
    """Print what a manifest contains, and which listed clips have no file."""
    from impact_pl.datasets.base import missing_list

    records, missing = collection.records, collection.missing
    captions = sum(record.caption is not None for record in records)
    print(f"{out}: {len(records)} clips, {captions} with a caption")
    for split in sorted({record.split for record in records}):
        print(f"  {split}: {sum(record.split == split for record in records)}")
    if collection.excluded:
        print(f"{len(collection.excluded)} clips were excluded by --exclude")
    if missing:
        total = len(records) + len(missing)
        where = f"looked for {collection.looked_for}; all: {missing_list(out)}"
        print(f"{len(missing)} of {total} listed clips have no file ({where}):")
        for name in missing[:SHOWN]:
            print(f"  {name}")
