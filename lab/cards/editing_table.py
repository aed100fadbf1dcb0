"""`python -m lab.cards.editing_table`: measure edits of real recordings and long streams, as Markdown.

Seams: how much level and spectrum change at the joints of replaced regions, as percentiles of the same changes at
random points of the same recording. Filled regions: the class that two networks hear in the whole clip. Streams: the
same, and level, memory and time, minute by minute. Every edit is checked: samples outside of the region and of its
cross-fades are the recording's own, and so are known latents.

Dimension key: J joints.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from impact_pl.audio import SAMPLE_RATE, measure_level
from impact_pl.config import PRESETS, DecodingConfig, with_preset
from impact_pl.errors import UserError, user_errors
from impact_pl.evaluation.formulas import frechet_distance
from impact_pl.evaluation.labels import ESC10
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.precision import find_device
from lab.cards.class_bars import CAPTIONS
from lab.cards.decoding_table import Judge, Probe, Scored, read_real, score
from lab.cards.edits import Clip, Editing, check_known_latents
from lab.cards.reconstruction import Scorers
from lab.markdown import table

MINUTE, PIECE = 60, 5  # seconds; a minute of a stream is scored in pieces


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Format a mean and, if there are several values, their standard deviation."""
    text = f"{np.mean(values):.{digits}f}"
    return f"{text} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else text


def seam_rows(runs: list[Editing]) -> list[list[str]]:
    """Format the median percentile, and the share of joints above the 90th, of flux and level step."""
    rows = []
    for name in runs[0].seams:
        found = np.concatenate([ranks for run in runs for ranks in run.seams[name]])  # (J, 2)
        pairs = [(f"{np.median(column):.0f}", f"{(column > 90).mean():.2f}") for column in found.T]
        rows.append([name, str(len(found)), *pairs[0], *pairs[1]])
    return rows


def filled_row(judge: Judge, sets: list[Scored], new_labels: list[list[str]]) -> list[str]:
    """Format the share heard as the original and as the new class by both networks, and the distance, over seeds."""
    original = np.array([[hits.mean() for hits in judge.hits(each)] for each in sets])  # (seeds, 2)
    renamed = [replace(each, labels=labels) for each, labels in zip(sets, new_labels, strict=True)]
    new = np.array([[hits.mean() for hits in judge.hits(each)] for each in renamed])
    distances = [frechet_distance(judge.reference.yamnet, each.yamnet) for each in sets]
    shares = [spread(column) for pair in zip(original.T, new.T, strict=True) for column in pair]
    return [str(sum(len(each.labels) for each in sets)), *shares, spread(distances, 1)]


def filled_rows(runs: list[Editing], scorers: Scorers, judge: Judge) -> list[list[str]]:
    labels, new_labels = [clip.label for clip in runs[0].clips], [run.new_labels for run in runs]
    real = score(scorers, labels, [clip.waveform for clip in runs[0].clips])
    coded = score(scorers, labels, runs[0].coded)
    rows = [
        [name, *filled_row(judge, [each], new_labels[:1]), "", ""] for name, each in (("real", real), ("codec", coded))
    ]
    for key in runs[0].sounds:
        sets = [score(scorers, labels, run.sounds[key]) for run in runs]
        times = np.median([each for run in runs for each in run.times[key]], axis=0)
        rows.append(
            [f"{key[0]:.0%}, {key[1]} caption", *filled_row(judge, sets, new_labels), *(f"{t:.2f}" for t in times)]
        )
    return rows


def resident() -> float:
    """Read the memory of this process, in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def stream_figures(
    pipeline: ImpactPipeline,
    decoding: DecodingConfig,
    judge: Judge,
    scorers: Scorers,
    labels: list[str],
    minutes: int,
    seed: int,
) -> np.ndarray:
    """Stream the labels' captions, each for as long as the others: (minutes, 6), as in the table."""
    duration, chunks, costs = minutes * MINUTE, [], []
    timeline = [(duration / len(labels) * number, CAPTIONS[label]) for number, label in enumerate(labels)]
    stream, done = pipeline.stream(timeline, duration, decoding=decoding, seed=seed), 0
    while done < duration * SAMPLE_RATE:
        wall, cpu = time.perf_counter(), time.process_time()
        chunk = next(stream).waveforms[0]
        cost = time.perf_counter() - wall, time.process_time() - cpu
        costs.append((done // (MINUTE * SAMPLE_RATE), len(chunk) / SAMPLE_RATE, *cost, resident()))
        chunks.append(chunk)
        done += len(chunk)
    pieces = list(torch.cat(chunks).split(PIECE * SAMPLE_RATE))
    own = [labels[number * PIECE * len(labels) // duration] for number in range(len(pieces))]
    scored = score(scorers, own, pieces)
    hits = judge.hits(scored)
    figures, per_minute = [], MINUTE // PIECE
    for minute in range(minutes):
        part = slice(minute * per_minute, (minute + 1) * per_minute)
        level = np.mean([measure_level(piece, SAMPLE_RATE).rms_db for piece in pieces[part]])
        _, seconds, wall, cpu, memory = np.array([cost for cost in costs if cost[0] == minute]).T
        times = wall.sum() / seconds.sum(), cpu.sum() / seconds.sum()
        figures.append((level, *(hit[part].mean() for hit in hits), memory.max(), *times))
    return np.array(figures)


def stream_rows(name: str, figures: np.ndarray) -> list[list[str]]:
    """Format figures (seeds, minutes, 6), one row per minute."""
    digits = (1, 2, 2, 0, 3, 3)
    return [
        [name, str(minute + 1), *(spread(column, n) for column, n in zip(figures[:, minute].T, digits, strict=True))]
        for minute in range(figures.shape[1])
    ]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.cards.editing_table", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--manifest", type=Path, required=True, help="recordings with labels of ESC-10")
    add("--split", default="valid", help="recordings to edit (default: %(default)s)")
    add("--train-split", default="train", help="fits the probe, reference of FD-YAMNet (default: %(default)s)")
    add("--aisfx", type=Path, required=True, metavar="CHECKPOINT", help="checkpoint.pth of aisfx 0.1.2")
    add("--model", default="builtin")
    add("--preset", choices=PRESETS, default="exact")
    add("--per-class", type=int, default=4)
    add("--seeds", type=int, default=3)
    add("--stream-seeds", type=int, help="seeds of the streams (default: --seeds)")
    add("--minutes", type=int, default=3, help="length of a stream (default: %(default)s)")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    scorers = Scorers(torch.get_num_threads(), args.aisfx)
    pipeline = ImpactPipeline.from_pretrained(args.model, find_device("auto"))
    decoding = with_preset(replace(pipeline.model.spec.own_decoding, precision="auto"), args.preset, {})
    real = [Clip(*pair) for pair in zip(*read_real(args.manifest, args.split), strict=True)]
    clips = [clip for label in ESC10 for clip in [each for each in real if each.label == label][: args.per_class]]
    if not clips:
        raise UserError(f"--per-class {args.per_class}: give at least 1")
    pipeline.edit((clips[0].waveform, SAMPLE_RATE), "rain", [(0.5, 1.0)], decoding=decoding)  # warms up, for the times
    for clip in clips[:: args.per_class]:
        check_known_latents(pipeline, clip, decoding)
    runs = [Editing(pipeline, decoding, clips, seed).run() for seed in range(args.seeds)]
    print(table(("joint", "joints", "flux: median", "above 90th", "level: median", "above 90th"), seam_rows(runs)))
    reference = score(scorers, *read_real(args.manifest, args.train_split))
    judge = Judge(reference, Probe(reference), scorers.yamnet.class_names)
    columns = (
        "replaced",
        "sounds",
        "YAMNet: original",
        "new",
        "aiSFX: original",
        "new",
        "FD-YAMNet",
        "wall, s",
        "CPU, s",
    )
    print("", table(columns, filled_rows(runs, scorers, judge)), "", sep="\n", flush=True)
    names, rows = list(ESC10), []
    for name, num_captions in (("one caption", 1), ("two captions", 2)):
        figures = []
        for seed in range(args.stream_seeds or args.seeds):
            labels = [names[(3 * seed + 5 * index + 2) % len(names)] for index in range(num_captions)]
            figures.append(stream_figures(pipeline, decoding, judge, scorers, labels, args.minutes, seed))
        rows += stream_rows(name, np.array(figures))
    headings = ("stream", "minute", "level, dB", "YAMNet", "aiSFX", "memory, MiB", "wall / duration", "CPU / duration")
    print(table(headings, rows))


if __name__ == "__main__":
    main()
