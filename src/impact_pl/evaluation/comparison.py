"""The report's published table with one's own row in it, wherever the same network made the figure."""

from dataclasses import dataclass
from html import escape

from impact_pl.data.lists import KNOWN
from impact_pl.errors import UserError
from impact_pl.evaluation.tables import METRICS

SOURCE = "IMPACT (ICML 2025), table 1"
ITERATION_LATENCY = {4: 1.8, 8: 3.2, 16: 5.7, 32: 11.2, 64: 22.2}  # S1's ablation: T of base at 100 steps -> seconds


@dataclass(frozen=True)
class System:
    """A row; None: not reported."""

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


COLUMNS = {  # of the published table -> key in a row of metrics.json or ratings.json, who made it
    "fd": ("fd_cnn14", "PANNs CNN14"),
    "fad": ("fad_vggish", "VGGish"),
    "kl": ("kl_cnn14", "PANNs CNN14"),
    "inception": ("is_cnn14", "PANNs CNN14"),
    "clap": ("clap_score", "clap-htsat-fused"),
    "rel": ("REL", "raters"),
    "ovl": ("OVL", "raters"),
}


def comparison_section(metrics: dict | None, ratings: dict | None, own_name: str) -> str:
    """The published table and one's own row; "" where nothing of one's own was made with a network of the table.

    Raises:
        ValueError: there are ratings, but not of a system called ``own_name``.
    """
    own = own_figures(metrics, ratings, own_name)
    if not any(key in own for key, _ in COLUMNS.values()):
        return ""
    heads = "".join(f'<th scope="col">{METRICS[key][0]}<small>{by}</small></th>' for key, by in COLUMNS.values())
    body = [
        f'<tr><th scope="row">{escape(system.name)}</th>'
        + "".join(_cell(getattr(system, column), METRICS[key][1]) for column, (key, _) in COLUMNS.items())
        + f"{_cell(system.steps, 0)}{_cell(system.latency, 1)}</tr>"
        for system in SYSTEMS
    ]
    cells = "".join(_cell(own.get(key), METRICS[key][1], own.get(f"{key}_interval")) for key, _ in COLUMNS.values())
    label = f"<small>{escape(own_label(metrics, ratings))}</small>"
    body.append(f'<tr class="generated"><th scope="row">{escape(own_name)}{label}</th>{cells}<td>–</td><td>–</td></tr>')
    return (
        f"<p>Published figures are those of {SOURCE}, on AudioCaps' test set; it does not say on which of the lists. "
        "One's own row stands below them, with 95 % intervals, only where the same network made the figure.</p>"
        f"{warning(metrics)}"
        '<div class="scroll" tabindex="0" role="region" aria-label="Published systems"><table class="compact">'
        f'<thead><tr><th></th>{heads}<th scope="col">steps</th><th scope="col">latency, s<small>batch 8, V100</small>'
        f"</th></tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def own_figures(metrics: dict | None, ratings: dict | None, own_name: str) -> dict:
    """One's own figures, of metrics.json and of the ratings together."""
    own: dict = {}
    for row in metrics["rows"] if metrics else []:
        own |= row if row["name"] == "generated" else {}
    if ratings:
        rated = next((row for row in ratings["rows"] if row["name"] == own_name), None)
        if rated is None:
            names = ", ".join(row["name"] for row in ratings["rows"])
            raise UserError(f"the ratings are of {names}, not of {own_name!r}: say with --name which is this model")
        own |= rated
    return own


def own_label(metrics: dict | None, ratings: dict | None) -> str:
    """On what one's own figures were made."""
    said = []
    if metrics:
        clips = metrics.get("test_list")
        said.append(f"{clips['name'] if clips else 'no test list'}, N = {metrics['num_samples']}")
    if ratings:
        said.append(f"{ratings['num_raters']} raters, {ratings['num_samples']} clips")
    return "; ".join(said)


def warning(metrics: dict | None) -> str:
    """A note where one's own clips are not a published list of AudioCaps'."""
    if metrics is None or (metrics.get("test_list") or {}).get("name") in KNOWN.values():
        return ""
    return (
        '<p class="note"><strong>Not comparable:</strong> this model was not evaluated on a published list of '
        "AudioCaps' test clips, so its row and the others are about different sounds.</p>"
    )


def _cell(value: float | None, digits: int, interval: list[float] | None = None) -> str:
    if value is None:
        return "<td>–</td>"
    small = f"<small>{interval[0]:.{digits}f} to {interval[1]:.{digits}f}</small>" if interval else ""
    return f"<td>{value:.{digits}f}{small}</td>"
