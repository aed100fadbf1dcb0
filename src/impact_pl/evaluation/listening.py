"""A listening test as one page, and what its raters said as means with confidence intervals.

Raters judge each clip for REL, how well it fits its caption, and OVL, its overall quality, from 1 to 5 (S1 Sec. 4). The
page holds the sounds under opaque names; which system made which stands in key.json, which raters never see. Each rater
hears all clips in an order of their own, drawn from the test and their name.

Dimension key: R raters, M captions.
"""

import base64
import hashlib
import io
import json
import secrets
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
import soundfile

from impact_pl.audio import SAMPLE_RATE, load_audio
from impact_pl.errors import UserError
from impact_pl.evaluation.intervals import Interval
from impact_pl.evaluation.sounds import Sounds, draw
from impact_pl.files import read_csv, read_text
from impact_pl.partial import write_whole

CRITERIA = {"REL": "How well does the sound fit the caption?", "OVL": "How good is the sound overall?"}
RATINGS = range(1, 6)
COLUMNS = ("test", "rater", "item", *CRITERIA)  # of the CSV that the page exports
FEWEST_RATERS = 10  # S1 Sec. 4
MAX_BYTES = 100_000_000
NUM_RESAMPLES = 2000


def write_test(
    systems: dict[str, Sounds],
    captions: dict[str, str],
    out: str | Path,
    num_samples: int,
    seed: int,
    title: str,
    salt: str | None = None,
) -> dict:
    """Write the page ``out`` and key.json beside it; returns the key.

    Args:
        systems: name -> sounds; sounds of one name belong to one caption.
        captions: by sound name.
        out: the page, ``.html``.
        num_samples: captions, drawn with ``seed`` from those that every system has a sound for.
        seed: of the choice.
        title: of the page; it must not give systems away.
        salt: of the opaque names, and so of the order; None: a secret one. It is kept in key.json alone: with it, and
            the names of systems and clips, anyone could tell whose an item is.

    Raises:
        ValueError: too few common captions, an unreadable sound, or a page above 100 MB.
    """
    common = sorted(set(captions).intersection(*systems.values()))
    if len(common) < num_samples:
        counts = ", ".join(f"{name} {len(sounds)}" for name, sounds in systems.items())
        raise UserError(
            f"{num_samples} captions are wanted, but only {len(common)} have a sound of every system "
            f"({counts}; {len(captions)} captions): give matching names, or fewer with --num-samples"
        )
    clips = draw(common, num_samples, np.random.default_rng(seed))
    salt = salt or secrets.token_hex(16)
    items, sounds = {}, []
    for clip in clips:
        for system in systems:
            item = hashlib.sha256(f"{salt},{system},{clip}".encode()).hexdigest()[:12]
            items[item] = {"system": system, "clip": clip, "caption": captions[clip]}
            record = systems[system][clip]
            audio = flac(load_audio(record.path, SAMPLE_RATE, record.start, record.duration).numpy())
            sounds.append({"id": item, "caption": captions[clip], "audio": audio})
    sounds.sort(key=lambda sound: sound["id"])  # an order that says nothing
    test = hashlib.sha256(json.dumps(sounds).encode()).hexdigest()[:12]
    page = render(title, {"test": test, "criteria": CRITERIA, "items": sounds})
    if len(page) > MAX_BYTES:
        raise UserError(
            f"the page would have {len(page) / 1e6:.0f} MB, at most {MAX_BYTES / 1e6:.0f}: lower --num-samples"
        )
    key = {"test": test, "seed": seed, "salt": salt, "systems": list(systems), "items": items}
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page)
    write_whole(out.with_name("key.json"), json.dumps(key, indent=1) + "\n")
    return key


def flac(waveform: np.ndarray) -> str:
    """A waveform (S,) at 16 kHz as lossless 16-bit FLAC in base64; nothing in it names a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return base64.b64encode(buffer.getvalue()).decode()


def render(title: str, data: dict) -> bytes:
    """The page's template with its data block, in which no ``<`` can end the script element."""
    template = Template(files("impact_pl.evaluation").joinpath("listening.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), data=json.dumps(data).replace("<", "\\u003c")).encode()


def read_key(path: str | Path) -> dict:
    """What ``write_test`` left beside the page.

    Raises:
        ValueError: it is not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such key file (it lies where the page was written)")
    try:
        key = json.loads(read_text(path))
        if {entry["system"] for entry in key["items"].values()} == set(key["systems"]) and isinstance(key["test"], str):
            return key
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{path}: not the key.json of a listening test")


def read_ratings(paths: Sequence[str | Path], key: dict) -> dict[str, dict[str, dict[str, int]]]:
    """Rater -> item -> criterion -> rating, from the CSVs that the page exported.

    Raises:
        ValueError: a file of another test or format, an unknown item, a rating that is not 1 to 5, a rater in two
            files, or one who did not rate everything. File, row and what is wrong are named.
    """
    ratings: dict[str, dict[str, dict[str, int]]] = {}
    file_of: dict[str, Path] = {}
    for path in map(Path, paths):
        for row, where in rows_of(path):
            if row["test"] != key["test"]:
                raise UserError(f"{where}: belongs to the test {row['test']!r}, the key to {key['test']!r}")
            if row["item"] not in key["items"]:
                raise UserError(f"{where}: the test has no item {row['item']!r}")
            if file_of.setdefault(row["rater"], path) != path:
                raise UserError(f"{where}: the rater {row['rater']!r} is in {file_of[row['rater']]} too")
            own = ratings.setdefault(row["rater"], {})
            if row["item"] in own:
                raise UserError(f"{where}: the item {row['item']} is rated twice")
            wrong = [name for name in CRITERIA if row[name] not in map(str, RATINGS)]
            if wrong:
                raise UserError(f"{where}: {wrong[0]} {row[wrong[0]]!r} is not a whole number from 1 to 5")
            own[row["item"]] = {name: int(row[name]) for name in CRITERIA}
    for rater, own in ratings.items():
        left = len(key["items"]) - len(own)
        if left:
            raise UserError(f"{file_of[rater]}: {left} of {len(key['items'])} clips are not rated by {rater!r}")
    return ratings


def rows_of(path: Path) -> list[tuple[dict[str, str], str]]:
    """The rows of an exported CSV, each with its place for a message."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of ratings")
    rows = read_csv(path, COLUMNS)
    if tuple(rows[0].cells) != COLUMNS:
        raise UserError(f"{path}: its columns are {', '.join(rows[0].cells)}, expected {', '.join(COLUMNS)}")
    found = [(row, f"{path}, line {line}") for line, row in rows]
    nameless = next((where for row, where in found if not row["rater"]), None)
    if nameless:
        raise UserError(f"{nameless}: the name of the rater is missing")
    return found


def summarise(ratings: dict[str, dict[str, dict[str, int]]], key: dict, seed: int = 0) -> dict:
    """Means of every system with 95 % intervals over raters and captions, as a dictionary for json."""
    clips = sorted({entry["clip"] for entry in key["items"].values()})
    item_of = {(entry["system"], entry["clip"]): item for item, entry in key["items"].items()}
    rows = []
    for system in key["systems"]:
        row: dict = {"name": system}
        for criterion in CRITERIA:
            table = [[own[item_of[system, clip]][criterion] for clip in clips] for own in ratings.values()]
            values = np.array(table, dtype=np.float64)  # (R, M)
            row[criterion] = float(values.mean())
            row[f"{criterion}_interval"] = crossed_interval(values, np.random.default_rng(seed))
        rows.append(row)
    return {"format": 1, "test": key["test"], "num_raters": len(ratings), "num_samples": len(clips), "rows": rows}


def crossed_interval(values: np.ndarray, generator: np.random.Generator) -> Interval:
    """95 % interval of the mean of ratings (R, M): raters and captions are both drawn anew, independently.

    The pigeonhole bootstrap for crossed factors (Owen, Annals of Applied Statistics 1(2), 2007): other raters and other
    captions could have been asked. It is slightly too wide rather than too narrow.
    """
    num_raters, num_clips = values.shape
    raters = generator.multinomial(num_raters, [1 / num_raters] * num_raters, NUM_RESAMPLES) / num_raters
    clips = generator.multinomial(num_clips, [1 / num_clips] * num_clips, NUM_RESAMPLES) / num_clips
    means = ((raters @ values) * clips).sum(axis=1)  # (NUM_RESAMPLES,)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
