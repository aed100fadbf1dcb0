"""Table of published systems with a row for the user's model, for metrics computed by the same network."""

from dataclasses import dataclass

from impact_pl.data.lists import KNOWN
from impact_pl.errors import UserError
from impact_pl.evaluation.report.tables import METRICS, Cell, make_cell
from impact_pl.evaluation.results import EvaluationResult, RatingsResult, ResultRow

SOURCE = "IMPACT (ICML 2025), table 1"
ITERATION_LATENCY = {4: 1.8, 8: 3.2, 16: 5.7, 32: 11.2, 64: 22.2}  # base at 100 steps: T -> s


@dataclass(frozen=True)
class System:
    """Published row; None: not reported."""

    name: str
    fd: float
    fad: float
    kl: float
    inception: float
    clap: float
    rel: float | None = None
    ovl: float | None = None
    steps: int | None = None
    latency: float | None = None


SYSTEMS = (
    System("AudioGen v2, 1.5 B", 16.51, 2.11, 1.54, 9.64, 0.315, latency=37.2),
    System("Tango, 866 M", 24.42, 1.73, 1.27, 7.70, 0.313, steps=200, latency=182.6),
    System("Tango 2", 20.66, 2.63, 1.12, 9.09, 0.375, 4.13, 3.37, 200, 182.3),
    System("EzAudio-L", 15.59, 2.25, 1.38, 11.35, 0.391, 4.05, 3.44, 50, 29.1),
    System("EzAudio-XL", 14.98, 3.01, 1.29, 11.38, 0.387, 4.00, 3.35, 50, 40.2),
    System("MAGNeT-S", 23.02, 3.22, 1.42, 9.72, 0.287, 3.83, 2.84, latency=6.9),
    System("MAGNeT-L", 26.19, 2.36, 1.64, 9.10, 0.253, latency=24.8),
    System("Make-An-Audio 2", 16.23, 2.03, 1.29, 9.95, 0.345, steps=100, latency=15.9),
    System("AudioLDM2-full", 32.14, 2.17, 1.62, 6.92, 0.273, 3.74, 3.19, 200, 96.1),
    System("AudioLDM2-large", 33.18, 2.12, 1.54, 8.29, 0.281, steps=200, latency=195.7),
    System("IMPACT base, T 32 (1200 h)", 14.90, 1.07, 1.05, 10.06, 0.364, steps=100, latency=11.2),
    System("IMPACT base, T 64 (5500 h, 1200 h)", 14.72, 1.13, 1.09, 10.03, 0.353, 4.31, 3.51, 100, 22.2),
    System("IMPACT large, T 64 (5500 h, 1200 h)", 14.72, 1.17, 1.07, 10.53, 0.364, 4.39, 3.47, 100, 28.4),
)


COLUMNS = {  # published column -> (key in a row of metrics.json or ratings.json, network or method)
    "fd": ("fd_cnn14", "PANNs CNN14"),
    "fad": ("fad_vggish", "VGGish"),
    "kl": ("kl_cnn14", "PANNs CNN14"),
    "inception": ("is_cnn14", "PANNs CNN14"),
    "clap": ("clap_score", "clap-htsat-fused"),
    "rel": ("REL", "raters"),
    "ovl": ("OVL", "raters"),
}


@dataclass(frozen=True)
class PublishedTable:
    headings: list[tuple[str, str]]  # (metric, network or method)
    rows: list[tuple[str, list[Cell]]]
    own_name: str
    own_label: str
    own_cells: list[Cell]
    is_comparable: bool


def published_table(
    metrics: EvaluationResult | None, ratings: RatingsResult | None, own_name: str
) -> PublishedTable | None:
    """Lay out the published table; None if the user's model has no value from a network of the table.

    Raises:
        UserError: There are ratings, but not for a system called ``own_name``.
    """
    own = own_row(metrics, ratings, own_name)
    if all(own.get(key) is None for key, _ in COLUMNS.values()):
        return None
    return PublishedTable(
        headings=[(METRICS[key][0], source) for key, source in COLUMNS.values()],
        rows=[(system.name, _published_cells(system)) for system in SYSTEMS],
        own_name=own_name,
        own_label=own_label(metrics, ratings),
        own_cells=[make_cell(own, key) for key, _ in COLUMNS.values()] + [Cell("–"), Cell("–")],
        is_comparable=metrics is None or (metrics.test_list is not None and metrics.test_list.name in KNOWN.values()),
    )


def own_row(metrics: EvaluationResult | None, ratings: RatingsResult | None, own_name: str) -> ResultRow:
    """Merge the user's model's rows of metrics.json and of the ratings."""
    parts = [metrics.by_name["generated"]] if metrics else []
    if ratings:
        rated = [row for row in ratings.rows if row.name == own_name]
        if not rated:
            names = ", ".join(row.name for row in ratings.rows)
            raise UserError(f"the ratings are of {names}, not of {own_name!r}: say with --name which is this model")
        parts += rated[:1]
    values = {key: value for row in parts for key, value in row.values.items()}
    intervals = {key: value for row in parts for key, value in row.intervals.items()}
    return ResultRow.model_construct(name=own_name, values=values, intervals=intervals)


def own_label(metrics: EvaluationResult | None, ratings: RatingsResult | None) -> str:
    """Describe the sounds and raters behind the user's model's row."""
    parts = []
    if metrics:
        parts.append(f"{metrics.test_list.name if metrics.test_list else 'no test list'}, N = {metrics.num_samples}")
    if ratings:
        parts.append(f"{ratings.num_raters} raters, {ratings.num_samples} clips")
    return "; ".join(parts)


def _published_cells(system: System) -> list[Cell]:
    values = [(getattr(system, column), METRICS[key][1]) for column, (key, _) in COLUMNS.items()]
    values += [(system.steps, 0), (system.latency, 1)]
    return [Cell("–" if value is None else f"{value:.{digits}f}") for value, digits in values]
