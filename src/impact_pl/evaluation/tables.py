"""The report's table of figures: every row of metrics.json, what each column means, and the notes."""

from html import escape

BARS = ("fd_cnn14", "fd_yamnet", "fad_vggish")  # distances; rows are sorted by the first that is there
ROW_NAMES = {
    "real": "real sounds",
    "codec": "codec reconstruction",
    "noise": "white noise",
    "untrained": "untrained model",
}
METRICS = {  # key in a row -> heading, digits, meaning; of every figure that a table shows
    "fd_cnn14": (
        "FD-CNN14 ↓",
        2,
        "FD of published tables: distance between the distributions of PANNs CNN14 embeddings of these sounds and of "
        "the reference.",
    ),
    "fad_vggish": ("FAD-VGGish ↓", 2, "FAD of published tables: the same of VGGish embeddings, one each 0.96 s."),
    "kl_cnn14": ("KL-CNN14 ↓", 3, "KL of published tables: between the classes CNN14 hears in a pair of sounds."),
    "kl_passt": ("KL-PaSST ↓", 3, "The same with PaSST's classes."),
    "is_cnn14": ("IS-CNN14 ↑", 2, "IS of published tables, the mean over ten splits."),
    "clap_score": ("CLAP ↑", 3, "CLAP score of published tables: cosine of a sound's and its caption's embeddings."),
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
        "Share of sounds with a label of ESC-10 whose label scores highest among the ten in YAMNet's ears. Guessing "
        "gives 0.1.",
    ),
    "embedding_cosine": ("Cosine ↑", 3, "Of the embeddings of a sound and of the real sound of its caption."),
    "top1_agreement": ("Top-1 ↑", 2, "Share of sounds whose likeliest class is that of the real sound of its caption."),
    "REL": ("REL ↑", 2, "Raters' mean: how well the sound fits its caption, from 1 to 5."),
    "OVL": ("OVL ↑", 2, "Raters' mean: the overall quality of the sound, from 1 to 5."),
}


def columns_of(rows: list[dict]) -> dict[str, tuple[str, int, str]]:
    """The columns that rows have, in the order of METRICS, each text figure followed by what chance gives."""
    columns = {}
    for key, (heading, digits, meaning) in METRICS.items():
        columns[key] = (heading, digits, meaning)
        columns[f"{key}_shuffled"] = ("(shuffled)", digits, "The same with captions shuffled.")
    return {key: look for key, look in columns.items() if any(row.get(key) is not None for row in rows)}


def metrics_section(metrics: dict | None) -> str:
    """The table of impact-evaluate, what each figure means, and its notes."""
    if not metrics:
        return ""
    rows = metrics["rows"]
    columns = {key: look for key, look in columns_of(rows).items() if key in METRICS}
    ranked = next((key for key in BARS if key in columns), None)
    heads = "".join(f'<th scope="col">{heading}</th>' for heading, _, _ in columns.values())
    body = []
    for row in sorted(rows, key=lambda row: row[ranked]) if ranked else rows:
        cells = "".join(_cell(key, digits, row, rows) for key, (_, digits, _) in columns.items())
        name = escape(ROW_NAMES.get(row["name"], row["name"]))
        floor = "<small>the floor</small>" if row["name"] == "real" else ""
        body.append(f'<tr class="{escape(row["name"], quote=True)}"><th scope="row">{name}{floor}</th>{cells}</tr>')
    meanings = "".join(f"<dt>{heading}</dt><dd>{meaning}</dd>" for heading, _, meaning in columns.values())
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in metrics.get("notes", []))
    return (
        f"<p>Every row has {metrics['num_samples']} sounds{lengths(metrics)}. Read a row "
        "between its neighbours: real sounds mark the best that can be asked for, white noise the worst, and the "
        "codec's reconstructions what a model on this codec could reach. Small figures are 95 % intervals.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of metrics"><table>'
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f"<dl>{meanings}</dl>{notes}"
    )


def lengths(metrics: dict) -> str:
    """How long the sounds were that the networks heard: of one length, or as long as they are."""
    heard = {name: network["fitted_seconds"] for name, network in metrics.get("networks", {}).items()}
    if not heard:  # of an earlier version
        return ""
    said = [f"{name} hears " + (f"{seconds:.2f} s" if seconds else "the whole") for name, seconds in heard.items()]
    return f" ({', '.join(said)} of each)"


def _cell(key: str, digits: int, row: dict, rows: list[dict]) -> str:
    """A figure, its interval and what chance gives; distances with a bar that is marked at the floor."""
    value = row.get(key)
    if value is None:
        return "<td>–</td>"
    small = ""
    interval = row.get(f"{key}_interval")
    if interval:
        small = f"<small>{interval[0]:.{digits}f} to {interval[1]:.{digits}f}</small>"
    if row.get(f"{key}_shuffled") is not None:
        small += f"<small>shuffled {row[f'{key}_shuffled']:.{digits}f}</small>"
    if key not in BARS:
        return f"<td>{value:.{digits}f}{small}</td>"
    values = {each["name"]: each[key] for each in rows}
    scale = 100 / (max(values.values()) or 1.0)
    mark = f'<u style="left:{values["real"] * scale:.1f}%"></u>' if "real" in values else ""
    track = f'<span class="track" aria-hidden="true"><b style="width:{value * scale:.1f}%"></b>{mark}</span>'
    return f'<td class="bar">{value:.{digits}f}{small}{track}</td>'
