"""The report: one self-contained HTML page to look at, to listen to, and to judge by.

Nothing in it points outside: sounds are FLAC and pictures PNG in ``data:`` addresses, curves are SVG, fonts are the
reader's own. It works without scripts (the browser's own players appear then).
"""

import base64
import io
import json
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import soundfile

from impact_pl.audio import SAMPLE_RATE, load_audio
from impact_pl.errors import UserError
from impact_pl.evaluation.charts import loss_chart, read_curves, spectrogram_uri
from impact_pl.evaluation.comparison import comparison_section
from impact_pl.evaluation.tables import metrics_section
from impact_pl.partial import write_whole

KINDS = {  # in the order of the page
    "real": "Real recording",
    "reconstructed": "Codec reconstruction",
    "generated": "Generated",
    "untrained": "Untrained model",
}
HEADLINES = {"fd_cnn14": "FD on CNN14", "fd_yamnet": "FD-YAMNet", "fad_vggish": "FAD on VGGish"}  # the first is told
MAX_BYTES = 25_000_000


@dataclass
class Row:
    """One caption and its sounds: kind (a key of KINDS) -> file."""

    caption: str
    sounds: dict[str, Path]


@dataclass
class Report:
    """Everything that stands on the page; what is empty is left out."""

    title: str = "IMPACT: sounds from captions"
    rows: list[Row] = field(default_factory=list)
    metrics: dict | None = None  # what impact-evaluate wrote
    ratings: dict | None = None  # what impact-evaluate ratings wrote
    own_name: str = "this model"  # in the published table, and in the ratings
    losses: dict[str, Path] = field(default_factory=dict)  # stage -> metrics.csv
    commands: str = ""
    facts: dict[str, str] = field(default_factory=dict)


def write_report(report: Report, path: str | Path) -> int:
    """Write the page and return its size in bytes.

    Raises:
        ValueError: nothing to show, an unreadable sound or loss file, or a page above 25 MB.
    """
    sections = {
        "Listen": listen_section(report.rows),
        "Measures": metrics_section(report.metrics),
        "Published systems": comparison_section(report.metrics, report.ratings, report.own_name),
        "Training": training_section(report.losses),
        "How it was made": making_section(report.commands, report.facts),
    }
    sections = {name: body for name, body in sections.items() if body}
    if not sections:
        raise UserError("nothing to report: no sounds, no metrics, no losses, no commands")
    template = Template(files("impact_pl.evaluation").joinpath("report.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=escape(report.title),
        lead=lead(report),
        navigation="".join(f'<a href="#{_anchor(name)}">{name}</a>' for name in sections),
        sections="\n".join(
            f'<section id="{_anchor(name)}"><h2>{name}</h2>\n{body}</section>' for name, body in sections.items()
        ),
    ).encode()
    if len(page) > MAX_BYTES:
        raise UserError(
            f"the page would have {len(page) / 1e6:.0f} MB, at most {MAX_BYTES / 1e6:.0f}: show fewer sounds (--limit)"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return len(page)


def read_rows(path: str | Path) -> list[Row]:
    """Rows from lines of JSON: ``caption`` and, for each kind of sound, a file (relative to this file's folder).

    Raises:
        ValueError: missing or empty file, a line that is not such an object (its number is named).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of rows")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg})") from error
        if not isinstance(entry, dict) or not isinstance(entry.get("caption"), str):
            raise UserError(f"{where}: expected an object with a caption")
        unknown = set(entry) - {"caption", *KINDS}
        if unknown or len(entry) < 2:
            raise UserError(f"{where}: needs a sound, keys are {', '.join(KINDS)}; unknown: {sorted(unknown)}")
        sounds = {kind: path.parent / entry[kind] for kind in KINDS if entry.get(kind)}
        rows.append(Row(entry["caption"], sounds))
    if not rows:
        raise UserError(f"{path}: holds no row")
    return rows


def lead(report: Report) -> str:
    """The result in two sentences, from the metrics."""
    if not report.metrics:
        kinds = {kind for row in report.rows for kind in row.sounds}
        said = "Real recordings, what the codec keeps of them, new sounds for the same captions."
        return (
            f'<p class="lead">{said if kinds != {"generated"} else "One new sound for each caption, as it came."}</p>'
        )
    headline = next((key for key in HEADLINES if key in report.metrics["rows"][0]), None)
    if headline is None:
        return ""
    distances = {row["name"]: row[headline] for row in report.metrics["rows"]}
    names = {"real": "other real sounds", "untrained": "an untrained model", "noise": "white noise"}
    others = [f"{words} at {distances[name]:.1f}" for name, words in names.items() if name in distances]
    return (
        f'<p class="lead">Generated sounds are at a distance of <strong>{distances["generated"]:.1f}</strong> from '
        f"real ones ({HEADLINES[headline]}, N = {report.metrics['num_samples']}). Beside them: {', '.join(others)}.</p>"
    )


def listen_section(rows: list[Row]) -> str:
    """Players with spectrograms, a block a caption."""
    if not rows:
        return ""
    intro = (
        "<p>Each block is one caption; none was chosen by listening. The pictures are log-mel spectrograms on one "
        "scale, 0 to 8 kHz from bottom to top. Press one to play it from there; its round button pauses.</p>"
    )
    blocks = []
    for row in rows:
        takes = "".join(take(kind, row.sounds[kind], row.caption) for kind in KINDS if kind in row.sounds)
        blocks.append(
            f'<article class="sound"><h3>{escape(row.caption)}</h3><div class="takes">{takes}</div></article>'
        )
    return intro + "\n".join(blocks)


def take(kind: str, file: Path, caption: str) -> str:
    """One sound: its picture as the button that plays it, and the browser's player for pages without scripts."""
    waveform = load_audio(file, SAMPLE_RATE)
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform.numpy(), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    audio = base64.b64encode(buffer.getvalue()).decode()
    length = f"<time>{len(waveform) / SAMPLE_RATE:.1f} s</time>"
    label = escape(f"Play: {KINDS[kind]}, {caption}", quote=True)
    return (
        f'<figure class="take {kind}"><figcaption>{KINDS[kind]}{length}</figcaption>'
        f'<button class="play" type="button" disabled aria-label="{label}" aria-pressed="false">'
        f'<img src="{spectrogram_uri(waveform)}" alt=""><i></i></button>'
        f'<audio controls preload="auto" src="data:audio/flac;base64,{audio}"></audio></figure>\n'
    )


def training_section(losses: dict[str, Path]) -> str:
    """A chart a stage."""
    if not losses:
        return ""
    charts = "".join(loss_chart(name, *read_curves(path)) for name, path in losses.items())
    key = '<i></i>training, running mean over the faint single steps<i class="valid"></i>validation'
    return f'<p class="key muted">{key}</p><div class="charts">{charts}</div>'


def making_section(commands: str, facts: dict[str, str]) -> str:
    """Facts about model and codec, and the commands that made the page."""
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    parts = [f"<dl>{listed}</dl>" if listed else ""]
    if commands.strip():
        parts.append(f'<h3>Commands</h3><pre tabindex="0">{escape(commands.strip())}</pre>')
    return "".join(parts)


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")
