"""Write tune.html: before and after, losses, recognition, the copy test, and every clip with its licence."""

from pathlib import Path

from impact_pl.data.manifest import Record
from impact_pl.evaluation.report import CaptionSounds, Report, write_report
from impact_pl.evaluation.report.page import Table
from impact_pl.tuning.clips import Clips
from impact_pl.tuning.judge import Judgement

MOST_CAPTIONS = 16  # on the page
MOST_ROWS = 1000
SETS = {
    "own before": "your sounds, before tuning",
    "own after": "your sounds, after tuning",
    "own recordings, held out": "your recordings, held out",
    "old before": "old sounds, before tuning",
    "old after": "old sounds, after tuning",
}


def write_page(
    path: Path,
    name: str,
    pairs: list[tuple[str, Path, Path]],
    clips: Clips,
    judgement: Judgement,
    losses: Path,
    facts: dict[str, str],
    commands: str,
) -> int:
    """Write the page and return its size in bytes.

    Args:
        path: The page.
        name: Name of the tuned model.
        pairs: Caption, sound before, sound after: with the same seed.
        clips: The clips, and what was left out.
        judgement: The figures.
        losses: metrics.csv of the training.
        facts: Name -> text.
        commands: The commands that lead here.
    """
    captions = [CaptionSounds(caption, {"before": before, "after": after}) for caption, before, after in pairs]
    report = Report(
        title=f"{name}: tuned to your sounds",
        captions=captions[:MOST_CAPTIONS],
        losses={"Tuning": losses},
        tables=[
            recognition_table(judgement),
            copy_table(judgement),
            clips_table(clips.records),
            left_out_table(clips),
        ],
        commands=commands,
        facts=facts,
    )
    return write_report(report, path)


def recognition_table(judgement: Judgement) -> Table:
    if judgement.missing:
        return Table("Recognised", f"Not measured: {judgement.missing}")
    words = (
        "A sound is recognised if, of all classes, the one of its caption is nearest to it in YAMNet's embedding. A "
        "class is the mean of your training clips with a caption, or of the starting model's sounds for one. Your "
        "held-out recordings show what can be reached. In brackets: 95 % interval and number of sounds."
    )
    rows = [
        (said, str(judgement.recognised[name]), judgement.heard_as.get(name, ""))
        for name, said in SETS.items()
        if name in judgement.recognised
    ]
    return Table("Recognised", words, ("", "recognised", "what YAMNet hears most"), rows)


def copy_table(judgement: Judgement) -> Table:
    medians = ", ".join(f"{name} {value:.2f}" for name, value in judgement.closeness.items())
    words = (
        f"Verdict: {judgement.verdict.words}. Each sound's envelope over time is correlated with those of all training "
        f"clips at all shifts; copies are near 1. Medians: {medians}. The cosine of embeddings is near 1 for sounds of "
        "one kind too."
    )
    rows = [
        (sound, clip, f"{correlation:.2f}", "" if cosine is None else f"{cosine:.2f}")
        for sound, clip, correlation, cosine in judgement.nearest
    ]
    return Table("Does it copy?", words, ("sound", "nearest training clip", "envelope", "embedding"), rows)


def clips_table(records: list[Record]) -> Table:
    rows = [
        (record.id, record.caption or "", record.split, record.licence or "not stated", record.source)
        for record in records[:MOST_ROWS]
    ]
    words = f"{len(records)} clips; those of split valid were held out."
    return Table("Clips and licences", words, ("clip", "caption", "split", "licence", "source"), rows)


def left_out_table(clips: Clips) -> Table:
    rows = [(reject.id, f"{reject.start:g} s", reject.reason) for reject in clips.left_out]
    rows += [(name, "", "listed in the captions file, but not in the folder") for name in clips.missing]
    rows += [(name, "", "used, with its file name as the caption") for name in clips.named]
    words = (
        f"{len(clips.left_out)} clips were left out, {len(clips.missing)} listed files are missing, {len(clips.named)} "
        f"files are captioned by their names. {clips.silence:.0f} s of silence were cut from {clips.seconds:.0f} s."
    )
    return Table("Left out and assumed", words, ("file", "at", "why"), rows[:MOST_ROWS])
