"""The report's published table with one's own row in it, wherever the same network made the figure."""

from html import escape

from impact_pl.data.lists import KNOWN
from impact_pl.evaluation.published import SOURCE, SYSTEMS
from impact_pl.evaluation.tables import METRICS

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
            raise ValueError(f"the ratings are of {names}, not of {own_name!r}: say with --name which is this model")
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
