"""Write the results of ``model_table`` as Markdown, and into a model card."""

from pathlib import Path

from impact_pl.errors import UserError
from impact_pl.evaluation.report.tables import columns_of
from lab.cards.class_bars import CAPTIONS
from lab.cards.replay import PERCENTILES
from lab.markdown import table

ACCURACY_BAR, DISTANCE_BAR = 0.8, 1.5  # thresholds: class accuracy; FD-YAMNet above the codec's reconstruction
START, END = "<!-- bars -->", "<!-- /bars -->"
SAID = {  # descriptions of rows
    "real, training": "real, training (real-vs-real baseline)",
    "codec, held out": "codec reconstruction, held out",
    "codec, training": "codec reconstruction, training",
    "real": "other real sounds (real-vs-real baseline)",
    "codec": "codec reconstruction",
    "noise": "white noise",
}


def tables(result: dict) -> str:
    """Format all tables, with the notes that a reader needs."""
    settings = {key: value for key, value in result["settings"].items() if value is not None}
    lines = [
        f"Model `{result['model']}`, codec `{result['codec']['name']}` ({result['codec']['identity']}); "
        + ", ".join(f"{key} {value}" for key, value in settings.items())
        + ".",
        "",
        *class_lines(result),
        *caption_lines(result["captions"]),
        *replay_lines(result),
    ]
    return "\n".join(lines) + "\n"


def class_lines(result: dict) -> list[str]:
    """Format accuracy and distance of the ten classes, and state whether the acceptance thresholds are met."""
    rows = result["classes"]
    made = rows["generated"]
    size, accuracy = made["set_size"], made["accuracy"]
    above = made["fd_yamnet"] - rows["codec, held out"]["fd_yamnet"]
    shuffled = ["generated, captions shuffled", str(made["num_sounds"]), f"{made['shuffled']:.3f}"]
    body = [*(_class_row(*row) for row in rows.items()), [*shuffled, "", "as generated", ""]]
    by_label = [
        [CAPTIONS[label], *(f"{row['accuracy_by_label'][label]:.2f}" for row in rows.values())] for label in CAPTIONS
    ]
    reached = {True: "reached", False: "missed"}
    return [
        f"### Ten classes, {made['num_sounds'] // len(CAPTIONS)} clips each of {result['seconds']:g} s",
        "",
        f"Accuracy is over all sounds of a row, with its 95 % interval; FD-YAMNet over sets of {size} sounds, each "
        f"class as often as in the {size} held-out real clips that are the reference: mean ± deviation of the sets.",
        "",
        table(["", "sounds", "class accuracy", "interval", "FD-YAMNet", "sets"], body),
        "",
        "Accuracy of each class:",
        "",
        table(["caption", *(SAID.get(name, name) for name in rows)], by_label),
        "",
        f"Bars: class accuracy of at least {ACCURACY_BAR:.2f}: {accuracy:.3f}, {reached[accuracy >= ACCURACY_BAR]}. "
        f"FD-YAMNet at most {DISTANCE_BAR:g} above the codec's reconstruction of the held-out clips: {above:+.1f}, "
        f"{reached[above <= DISTANCE_BAR]}.",
        "",
    ]


def _class_row(name: str, row: dict) -> list[str]:
    low, high = row["accuracy_interval"]
    spread = "" if row["fd_yamnet_std"] is None else f" ± {row['fd_yamnet_std']:.1f}"
    distance = "the reference" if row["fd_yamnet"] is None else f"{row['fd_yamnet']:.1f}{spread}"
    cells = [str(row["num_sounds"]), f"{row['accuracy']:.3f}", f"{low:.3f} to {high:.3f}", distance]
    return [SAID.get(name, name), *cells, str(row["num_sets"] or "")]


def caption_lines(metrics: dict) -> list[str]:
    """Format the table of `impact evaluate`, and its notes."""
    columns = columns_of(metrics["rows"])
    body = [
        [
            SAID.get(row["name"], row["name"]),
            *("–" if row.get(key) is None else f"{row[key]:.{digits}f}" for key, (_, digits, _) in columns.items()),
        ]
        for row in metrics["rows"]
    ]
    return [
        f"### Held-out captions, N = {metrics['num_samples']}",
        "",
        table(["", *(heading for heading, _, _ in columns.values())], body),
        "",
        *(f"- {note}" for note in metrics["notes"]),
        "",
    ]


def replay_lines(result: dict) -> list[str]:
    lines = [
        "### Nearest training clip",
        "",
        f"Of each sound's similarities to all training clips ({result['training_parts']} parts of {result['training']} "
        "clips) the largest, and its distribution over a row's sounds, in percentiles. Cosine of YAMNet's embeddings: "
        "near 1 for sounds of one kind. Correlation of spectral envelopes (16 bands, 25 frames a second, any shift in "
        "time): near 1 for copies only, though short sounds in silence are alike. Codec reconstructions of training "
        "clips are what replaying would look like, held-out real clips what other recordings look like. Last column: "
        "share of sounds as near to a training clip as nine tenths of those reconstructions are.",
        "",
    ]
    heads = ["", *("least" if p == 0 else "most" if p == 100 else f"{p} %" for p in PERCENTILES), "as replayed"]
    measures = {"embedding": "cosine of embeddings", "envelope": "correlation of envelopes"}
    for key, title in {"classes": "Ten classes", "captions": "Held-out captions"}.items():
        for measure, words in measures.items():
            body = [
                [SAID.get(name, name), *(f"{each:.2f}" for each in row["percentiles"]), f"{row['as_replayed']:.2f}"]
                for name, row in result["replay"][key][measure].items()
            ]
            lines += [f"{title}, {words}:", "", table(heads, body), ""]
    return lines


def around_the_marks(card: Path) -> tuple[str, str]:
    """Return the text before and after the two marks of a model card.

    Raises:
        UserError: The file is missing, or lacks the marks.
    """
    if not card.is_file():
        raise UserError(f"{card}: no such model card")
    before, start, rest = card.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise UserError(f"{card}: has no lines {START} and {END}, between which the tables would go")
    return before, after


def insert(card: Path, text: str) -> None:
    """Replace the text between the marks of a model card."""
    before, after = around_the_marks(card)
    card.write_text(f"{before}{START}\n\n{text}\n{END}{after}", encoding="utf-8")
