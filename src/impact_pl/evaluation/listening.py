"""Listening test: write it as one HTML page, and summarise its ratings as means with confidence intervals.

Raters score each clip from 1 to 5 for REL, how well it matches its caption, and OVL, its overall quality (IMPACT Sec.
4). The page contains the sounds under opaque names. key.json maps them to systems and is never shown to raters. Each
rater hears all clips in an individual order, derived from the test and the rater's name.

Dimension key: R raters, M captions.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from impact_pl.audio import SAMPLE_RATE, load_audio
from impact_pl.errors import UserError
from impact_pl.evaluation.intervals import Interval
from impact_pl.evaluation.pages import flac, render
from impact_pl.evaluation.sounds import Sounds, draw
from impact_pl.files import read_csv, read_json
from impact_pl.partial import write_whole

CRITERIA = {"REL": "How well does the sound fit the caption?", "OVL": "How good is the sound overall?"}
RATINGS = range(1, 6)
COLUMNS = ("test", "rater", "item", *CRITERIA)  # of the CSV that the page exports
FEWEST_RATERS = 10  # IMPACT Sec. 4
MAX_BYTES = 100_000_000
NUM_RESAMPLES = 2000

Ratings = dict[str, dict[str, dict[str, int]]]  # rater -> item -> criterion -> rating


class _Parsed(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Item(_Parsed):
    """A clip of the test."""

    system: str
    clip: str
    caption: str


class Key(_Parsed):
    """Schema of key.json, which maps the page's items to systems and captions."""

    test: str
    seed: int
    salt: str
    systems: list[str]
    items: dict[str, Item]


def write_test(
    systems: dict[str, Sounds],
    captions: dict[str, str],
    out: str | Path,
    num_samples: int,
    seed: int,
    title: str,
    salt: str | None = None,
) -> Key:
    """Write the page ``out``, and key.json next to it.

    Args:
        systems: name -> sounds. Sounds with the same name belong to the same caption.
        captions: Captions by sound name.
        out: Path of the page, ``.html``.
        num_samples: Number of captions, drawn with ``seed`` from those for which every system has a sound.
        seed: Seed of the choice.
        title: Title of the page. It must not reveal the systems.
        salt: Salt of the opaque names, and thereby of the order; None: a secret one. It is stored in key.json only:
            together with the names of systems and clips, it reveals the system of each item.

    Raises:
        UserError: There are too few common captions, an unreadable sound, or a page above 100 MB.
    """
    clips = _choose_clips(systems, captions, num_samples, seed)
    salt = salt or secrets.token_hex(16)
    items, sounds = {}, []
    for clip in clips:
        for system in systems:
            item = hashlib.sha256(f"{salt},{system},{clip}".encode()).hexdigest()[:12]
            items[item] = Item(system=system, clip=clip, caption=captions[clip])
            record = systems[system][clip]
            audio = flac(load_audio(record.path, SAMPLE_RATE, record.start, record.duration))
            sounds.append({"id": item, "caption": captions[clip], "audio": base64.b64encode(audio).decode()})
    sounds.sort(key=lambda sound: sound["id"])  # sort by opaque name, to hide the systems
    test = hashlib.sha256(json.dumps(sounds).encode()).hexdigest()[:12]
    page = render("listening.html.j2", title=title, data={"test": test, "criteria": CRITERIA, "items": sounds})
    if len(page) > MAX_BYTES:
        raise UserError(
            f"the page would have {len(page) / 1e6:.0f} MB, at most {MAX_BYTES / 1e6:.0f}: lower --num-samples"
        )
    key = Key(test=test, seed=seed, salt=salt, systems=list(systems), items=items)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page)
    write_whole(out.with_name("key.json"), key.model_dump_json(indent=1) + "\n")
    return key


def _choose_clips(systems: dict[str, Sounds], captions: dict[str, str], num_samples: int, seed: int) -> list[str]:
    common = sorted(set(captions).intersection(*systems.values()))
    if len(common) < num_samples:
        counts = ", ".join(f"{name} {len(sounds)}" for name, sounds in systems.items())
        raise UserError(
            f"{num_samples} captions are wanted, but only {len(common)} have a sound of every system "
            f"({counts}; {len(captions)} captions): give matching names, or fewer with --num-samples"
        )
    return draw(common, num_samples, np.random.default_rng(seed))


def read_key(path: str | Path) -> Key:
    """Read the key that ``write_test`` wrote next to the page.

    Raises:
        UserError: The file is missing or is not such a key.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such key file (it lies where the page was written)")
    key = read_json(path, Key, remedy="is it the right key.json?")
    unknown = {item.system for item in key.items.values()} ^ set(key.systems)
    if unknown:
        raise UserError(
            f"{path}: systems and items do not agree on {min(unknown)!r}: is it the key.json of a listening test?"
        )
    return key


def read_ratings(paths: Sequence[str | Path], key: Key) -> Ratings:
    """Read the CSVs exported by the page.

    Raises:
        UserError: A file belongs to another test or format, has an unknown item or a rating outside 1 to 5, or a rater
            is in two files or did not rate everything. The message names file, line and problem.
    """
    ratings: Ratings = {}
    file_of: dict[str, Path] = {}
    for path in map(Path, paths):
        for line, cells in read_csv(path, COLUMNS):
            where, rater, item = f"{path}, line {line}", cells["rater"], cells["item"]
            if cells["test"] != key.test:
                raise UserError(f"{where}: belongs to the test {cells['test']!r}, the key to {key.test!r}")
            if item not in key.items:
                raise UserError(f"{where}: the test has no item {item!r}")
            if not rater:
                raise UserError(f"{where}: the rater's name is missing")
            if file_of.setdefault(rater, path) != path:
                raise UserError(f"{where}: the rater {rater!r} is in {file_of[rater]} too")
            if item in ratings.setdefault(rater, {}):
                raise UserError(f"{where}: the item {item} is rated twice")
            wrong = [name for name in CRITERIA if cells[name] not in map(str, RATINGS)]
            if wrong:
                raise UserError(f"{where}: {wrong[0]} {cells[wrong[0]]!r} is not a whole number from 1 to 5")
            ratings[rater][item] = {name: int(cells[name]) for name in CRITERIA}
    for rater, own in ratings.items():
        left = len(key.items) - len(own)
        if left:
            raise UserError(f"{file_of[rater]}: {left} of {len(key.items)} clips are not rated by {rater!r}")
    return ratings


def summarise(ratings: Ratings, key: Key, seed: int = 0) -> dict:
    """Compute the means of every system with 95 % intervals over raters and captions, as a dictionary for JSON."""
    clips = sorted({item.clip for item in key.items.values()})
    item_of = {(item.system, item.clip): name for name, item in key.items.items()}
    rows = []
    for system in key.systems:
        row: dict = {"name": system}
        for criterion in CRITERIA:
            table = [[own[item_of[system, clip]][criterion] for clip in clips] for own in ratings.values()]
            values = np.array(table, dtype=np.float64)  # (R, M)
            row[criterion] = float(values.mean())
            row[f"{criterion}_interval"] = crossed_interval(values, np.random.default_rng(seed))
        rows.append(row)
    return {"format": 1, "test": key.test, "num_raters": len(ratings), "num_samples": len(clips), "rows": rows}


def crossed_interval(values: np.ndarray, generator: np.random.Generator) -> Interval:
    """Estimate the 95 % interval of the mean of ratings (R, M), resampling raters and captions independently.

    This is the pigeonhole bootstrap for crossed factors (Owen, Annals of Applied Statistics 1(2), 2007), which accounts
    for the choice of both raters and captions. It is slightly too wide rather than too narrow.
    """
    num_raters, num_clips = values.shape
    raters = generator.multinomial(num_raters, [1 / num_raters] * num_raters, NUM_RESAMPLES) / num_raters
    clips = generator.multinomial(num_clips, [1 / num_clips] * num_clips, NUM_RESAMPLES) / num_clips
    means = ((raters @ values) * clips).sum(axis=1)  # (NUM_RESAMPLES,)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
