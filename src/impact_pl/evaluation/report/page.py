"""Write the report: one self-contained HTML page with sounds, metrics, loss curves and commands.

The page has no external references: sounds are FLAC, pictures PNG and SVG in ``data:`` URLs, fonts are the reader's
own. It works without scripts, using the browser's own players.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from impact_pl.audio import SAMPLE_RATE, load_audio
from impact_pl.data.lists import Sounds
from impact_pl.errors import UserError
from impact_pl.evaluation.pages import data_uri, flac, render
from impact_pl.evaluation.report.charts import loss_chart_uri, loss_summary, read_curves, spectrogram_uri
from impact_pl.evaluation.report.published import SOURCE, published_table
from impact_pl.evaluation.report.tables import metrics_table
from impact_pl.evaluation.results import EvaluationResult, RatingsResult
from impact_pl.files import read_jsonl
from impact_pl.partial import write_whole

KINDS = {  # in the order of the page
    "before": "Before",
    "after": "After",
    "real": "Real recording",
    "reconstructed": "Codec reconstruction",
    "generated": "Generated",
    "untrained": "Untrained model",
}
HEADLINES = {"fd_cnn14": "FD on CNN14", "fd_yamnet": "FD-YAMNet", "fad_vggish": "FAD on VGGish"}  # first available
OTHER_ROWS = {"real": "other real sounds", "untrained": "an untrained model", "noise": "white noise"}
MAX_BYTES = 25_000_000


@dataclass
class CaptionSounds:
    """A caption and its sounds: kind (a key of KINDS) -> file."""

    caption: str
    sounds: dict[str, Path]


@dataclass
class Table:
    """A further section of the page: a paragraph, and rows of cells."""

    title: str
    words: str
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


@dataclass
class Report:
    """Content of the page. Empty fields are left out."""

    title: str = "IMPACT: sounds from captions"
    captions: list[CaptionSounds] = field(default_factory=list)
    metrics: EvaluationResult | None = None
    ratings: RatingsResult | None = None
    own_name: str = "this model"  # in the published table, and in the ratings
    losses: dict[str, Path] = field(default_factory=dict)  # stage -> metrics.csv
    tables: list[Table] = field(default_factory=list)
    commands: str = ""
    facts: dict[str, str] = field(default_factory=dict)


def write_report(report: Report, path: str | Path) -> int:
    """Write the page and return its size in bytes.

    Raises:
        UserError: There is nothing to report, a sound or loss file is unreadable, or the page exceeds 25 MB.
    """
    sections = {
        "Listen": [(each.caption, [take(kind, file) for kind, file in _in_order(each)]) for each in report.captions],
        "Measures": metrics_table(report.metrics) if report.metrics else None,
        "Published systems": published_table(report.metrics, report.ratings, report.own_name),
        **{table.title: table for table in report.tables},
        "Training": [chart(name, path) for name, path in report.losses.items()],
        "How it was made": bool(report.facts or report.commands.strip()),
    }
    sections = {name: section for name, section in sections.items() if section}
    if not sections:
        raise UserError("nothing to report: no sounds, no metrics, no losses, no commands")
    page = render("report.html.j2", report=report, sections=sections, headline=headline(report.metrics), source=SOURCE)
    if len(page) > MAX_BYTES:
        raise UserError(
            f"the page would have {len(page) / 1e6:.0f} MB, at most {MAX_BYTES / 1e6:.0f}: show fewer sounds (--limit)"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return len(page)


class _Line(BaseModel):
    """Line of a file of captions and sounds."""

    model_config = ConfigDict(strict=True, extra="forbid")
    caption: str
    real: str | None = Field(None, min_length=1)
    reconstructed: str | None = Field(None, min_length=1)
    generated: str | None = Field(None, min_length=1)
    untrained: str | None = Field(None, min_length=1)


def read_caption_sounds(path: str | Path) -> list[CaptionSounds]:
    """Read lines of JSON: ``caption`` and, per kind of sound, a file (relative to this file's folder).

    Raises:
        UserError: The file is missing or empty, or a line is invalid (the message gives its number).
    """
    path = Path(path)
    found = []
    for number, line in read_jsonl(path, _Line, f"needs a caption, and a sound of {', '.join(KINDS)}"):
        files = line.model_dump(exclude={"caption"}, exclude_none=True)
        if not files:
            raise UserError(f"{path}, line {number}: needs a sound; keys are {', '.join(KINDS)}")
        found.append(CaptionSounds(line.caption, {kind: path.parent / file for kind, file in files.items()}))
    if not found:
        raise UserError(f"{path}: holds no line")
    return found


def choose_captions(sounds: dict[str, Sounds], captions: dict[str, str], limit: int, seed: int) -> list[CaptionSounds]:
    """Choose captions that have a sound of every kind: drawn with a seed, sorted by name.

    Args:
        sounds: Sounds by kind, then by name.
        captions: Captions by name. Empty: names are used as captions.
        limit: Maximum number of captions; distinct ones are preferred.
        seed: Seed of the choice.

    Raises:
        UserError: No name is in all of them.
    """
    names = sorted(set.intersection(*(set(each) for each in sounds.values())))
    names = [name for name in names if name in captions] if captions else names
    if not names:
        raise UserError(f"no caption has a sound of its name in each of {', '.join(sounds)}")
    random.Random(seed).shuffle(names)
    caption_of = {name: captions.get(name, name) for name in names}
    first_of = {caption_of[name]: name for name in reversed(names)}  # prefer one sound per caption
    chosen = sorted(sorted(names, key=lambda name: first_of[caption_of[name]] != name)[:limit])
    return [
        CaptionSounds(caption_of[name], {kind: Path(named[name].path) for kind, named in sounds.items()})
        for name in chosen
    ]


def headline(metrics: EvaluationResult | None) -> dict | None:
    """Summarise the result in two sentences: the distance of the generated sounds, and those of the other rows."""
    if metrics is None:
        return None
    rows = metrics.by_name
    key = next((key for key in HEADLINES if rows["generated"].get(key) is not None), None)
    if key is None:
        return None
    others = [f"{words} at {rows[name].get(key):.1f}" for name, words in OTHER_ROWS.items() if _has(rows, name, key)]
    return {"distance": rows["generated"].get(key), "metric": HEADLINES[key], "others": ", ".join(others)}


def _has(rows: dict, name: str, key: str) -> bool:
    return name in rows and rows[name].get(key) is not None


def _in_order(each: CaptionSounds) -> list[tuple[str, Path]]:
    return [(kind, each.sounds[kind]) for kind in KINDS if kind in each.sounds]


def take(kind: str, file: Path) -> dict[str, object]:
    """Prepare one sound. Its picture is the play button; without scripts, the browser's player is shown."""
    waveform = load_audio(file, SAMPLE_RATE)
    return {
        "kind": kind,
        "words": KINDS[kind],
        "seconds": len(waveform) / SAMPLE_RATE,
        "picture": spectrogram_uri(waveform),
        "audio": data_uri(flac(waveform), "audio/flac"),
    }


def chart(name: str, path: Path) -> dict[str, str | None]:
    """Prepare the loss curves of a stage; without a picture if no loss was logged."""
    train, valid = read_curves(path)
    picture = loss_chart_uri(train, valid) if train or valid else None
    return {"name": name, "summary": loss_summary(train, valid), "picture": picture}
