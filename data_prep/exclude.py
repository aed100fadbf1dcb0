"""Clips that must not be trained on, because they are in a test set or in another training set.

``--exclude`` takes two kinds of files: the blacklists that WavCaps publishes (JSON: source -> ids) and lists of YouTube
clips (a test list in any published format, or AudioCaps' own CSV), which name clips of AudioSet.
"""

import argparse
import json
from pathlib import Path

from impact_pl.data.lists import clip_id, read_clip_list
from impact_pl.data_prep.collect import read_text

AUDIOSET, FREESOUND = "AudioSet", "FreeSound"  # the blacklists' keys


def add_exclude(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--exclude",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="leave these clips out: WavCaps' blacklist_*.json, test lists, AudioCaps' CSV",
    )


def read_excluded(paths: list[Path]) -> dict[str, set[str]]:
    """Source (``AudioSet``, ``FreeSound``) -> ids, as :func:`clip_id` writes them, of all files together.

    Raises:
        ValueError: a file that is neither such a blacklist nor a list of clips.
    """
    excluded: dict[str, set[str]] = {AUDIOSET: set(), FREESOUND: set()}
    for path in paths:
        if path.suffix.lower() != ".json":
            excluded[AUDIOSET] |= set(read_clip_list(path).captions)
            continue
        try:
            lists = json.loads(read_text(path))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not JSON ({error.msg} in line {error.lineno})") from error
        known = isinstance(lists, dict) and lists and not set(lists) - set(excluded)
        if not known or not all(isinstance(names, list) for names in lists.values()):
            raise ValueError(f'{path}: expected WavCaps\' blacklist, {{"AudioSet": [ids], "FreeSound": [ids]}}')
        for source, names in lists.items():
            excluded[source] |= {clip_id(str(name)) for name in names}
    return excluded
