"""The table of metrics: columns, their meanings, and cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from impact_pl.evaluation.results import EvaluationResult, ResultRow

DISTANCES = ("fd_cnn14", "fd_yamnet", "fad_vggish")  # drawn as bars; rows are sorted by the first available one
ROW_NAMES = {
    "real": "real sounds",
    "codec": "codec reconstruction",
    "noise": "white noise",
    "untrained": "untrained model",
}
METRICS = {  # key in a row -> heading, digits, meaning
    "fd_cnn14": (
        "FD-CNN14 ↓",
        2,
        "FD of published tables: distance between the distributions of PANNs CNN14 embeddings of these sounds and of "
        "the reference.",
    ),
    "fad_vggish": ("FAD-VGGish ↓", 2, "FAD of published tables: the same of VGGish embeddings, one per 0.96 s."),
    "kl_cnn14": ("KL-CNN14 ↓", 3, "KL of published tables: between the classes CNN14 hears in a pair of sounds."),
    "kl_passt": ("KL-PaSST ↓", 3, "The same with PaSST's classes."),
    "is_cnn14": ("IS-CNN14 ↑", 2, "IS of published tables, the mean over ten splits."),
    "clap_score": (
        "CLAP ↑",
        3,
        "CLAP score of published tables: cosine of the embeddings of a sound and its caption.",
    ),
    "fd_yamnet": (
        "FD-YAMNet ↓",
        1,
        "Distance between the distributions of YAMNet embeddings of these sounds and of the reference. Lower is "
        "better; the floor (vertical mark) is what other real sounds get at this number of sounds, so a model that "
        "reaches it cannot be told from real sounds by this measure.",
    ),
    "kl": (
        "KL ↓",
        2,
        "How far the classes heard in a sound are from those in the real sound of its caption. Lower is better.",
    ),
    "inception_score": ("IS ↑", 2, "Sounds with one clear class each, of many classes together, score high."),
    "text_relevance": (
        "Relevance ↑",
        3,
        "Cosine between the caption and the names of the classes heard (sentence embeddings of both). Below it, the "
        "same with captions shuffled: the gap is what the captions explain.",
    ),
    "accuracy": (
        "Accuracy ↑",
        3,
        "Share of sounds with a label of ESC-10 whose label scores highest among the ten for YAMNet. Guessing "
        "gives 0.1.",
    ),
    "embedding_cosine": ("Cosine ↑", 3, "Of the embeddings of a sound and of the real sound of its caption."),
    "top1_agreement": ("Top-1 ↑", 2, "Share of sounds whose likeliest class is that of the real sound of its caption."),
    "level_db": ("Level, dBFS", 1, "Mean over sounds of their RMS in decibels of full scale."),
    "silent": ("Silent ↓", 2, "Share of sounds whose loudest 80 ms stay below -60 dBFS."),
    "clipped": (
        "Clipped ↓",
        2,
        "Share of sounds that have a twentieth of the samples of some 80 ms at full scale: heard as a blast.",
    ),
    "REL": ("REL ↑", 2, "Raters' mean: how well the sound fits its caption, from 1 to 5."),
    "OVL": ("OVL ↑", 2, "Raters' mean: the overall quality of the sound, from 1 to 5."),
}


class _Row(Protocol):
    def get(self, key: str, /) -> object: ...


def columns_of(rows: Sequence[_Row]) -> dict[str, tuple[str, int, str]]:
    """Select the columns that rows have, in the order of METRICS, each text metric followed by its chance level."""
    columns = {}
    for key, (heading, digits, meaning) in METRICS.items():
        columns[key] = (heading, digits, meaning)
        columns[f"{key}_shuffled"] = ("(shuffled)", digits, "The same with captions shuffled.")
    return {key: column for key, column in columns.items() if any(row.get(key) is not None for row in rows)}


@dataclass(frozen=True)
class Cell:
    """A cell of an HTML table."""

    text: str
    small: tuple[str, ...] = ()  # lines below the value
    bar: float | None = None  # length in percent
    floor: float | None = None  # mark of the real-vs-real baseline on the bar, in percent


def make_cell(row: ResultRow, key: str, result: EvaluationResult | None = None) -> Cell:
    """Format a metric with its interval and its chance level. With ``result``, a distance gets a bar."""
    value, interval, shuffled = row.get(key), row.intervals.get(key), row.get(f"{key}_shuffled")
    if value is None:
        return Cell("–")
    digits = METRICS[key][1]
    small = [] if interval is None else [f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"]
    small += [] if shuffled is None else [f"shuffled {shuffled:.{digits}f}"]
    if result is None or key not in DISTANCES:
        return Cell(f"{value:.{digits}f}", tuple(small))
    scale = 100 / (max(each.get(key) or 0.0 for each in result.rows) or 1.0)
    floor = result.by_name["real"].get(key) if "real" in result.by_name else None
    return Cell(f"{value:.{digits}f}", tuple(small), value * scale, None if floor is None else floor * scale)


@dataclass(frozen=True)
class MetricsTable:
    headings: list[str]
    rows: list[tuple[str, str, list[Cell]]]  # (name, description, cells)
    meanings: list[tuple[str, str]]
    lengths: str


def metrics_table(result: EvaluationResult) -> MetricsTable:
    """Lay out the table of `impact evaluate`."""
    columns = {key: column for key, column in columns_of(result.rows).items() if key in METRICS}
    ranked = next((key for key in DISTANCES if key in columns), None)
    rows = result.rows
    if ranked is not None:
        rows = sorted(rows, key=lambda row: (row.get(ranked) is None, row.get(ranked)))
    cells = [[make_cell(row, key, result) for key in columns] for row in rows]
    return MetricsTable(
        headings=[heading for heading, _, _ in columns.values()],
        rows=[(row.name, ROW_NAMES.get(row.name, row.name), each) for row, each in zip(rows, cells, strict=True)],
        meanings=[(heading, meaning) for heading, _, meaning in columns.values()],
        lengths=", ".join(
            f"{name} hears " + (f"{network.fitted_seconds:.2f} s" if network.fitted_seconds else "the whole")
            for name, network in result.networks.items()
        ),
    )
