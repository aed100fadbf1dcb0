"""`python -m lab.cards.decoding_table`: one model decoded in several ways, scored by two networks, as Markdown.

YAMNet's zero-shot rule and a linear probe on aiSFX embeddings, fitted to real recordings only, say whether the class of
the caption is heard. Next to them stand what no class score shows: clipped and silent sounds, level, and spread.
"""

import argparse
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from impact_pl.audio import SAMPLE_RATE, load_audio, measure_level, resample
from impact_pl.config import PRESETS, DecodingConfig, with_preset
from impact_pl.errors import UserError, user_errors
from impact_pl.evaluation.formulas import frechet_distance
from impact_pl.evaluation.labels import ESC10, heard_labels, labels_of
from impact_pl.evaluation.sounds import list_sounds
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.precision import find_device
from lab.cards.class_bars import CAPTIONS
from lab.cards.reconstruction import Heard, Scorers
from lab.markdown import number, table

PENALTY = 10.0  # of the ridge probe, on standardised embeddings
COLUMNS = ("sounds", "YAMNet", "aiSFX probe", "FD-YAMNet", "spread", "clipped", "silent", "level, dB")


class Probe:
    """Ridge regression from standardised aiSFX embeddings to one-hot labels."""

    def __init__(self, labels: list[str], real: Heard) -> None:
        embeddings = real.embeddings["FD-aisfx"]
        self.mean, self.std = embeddings.mean(axis=0), embeddings.std(axis=0) + 1e-6
        x = self._standardise(embeddings)
        y = np.array([[label == name for name in ESC10] for label in labels], dtype=float)
        self.weight = np.linalg.solve(x.T @ x + PENALTY * np.eye(x.shape[1]), x.T @ y)

    def _standardise(self, embeddings: np.ndarray) -> np.ndarray:
        return np.concatenate([(embeddings - self.mean) / self.std, np.ones((len(embeddings), 1))], axis=1)

    def __call__(self, sounds: Heard) -> list[str]:
        found = (self._standardise(sounds.embeddings["FD-aisfx"]) @ self.weight).argmax(axis=1)
        return [list(ESC10)[index] for index in found]


def read_real(manifest: Path, split: str) -> tuple[list[str], list[torch.Tensor]]:
    """Read the recordings of a split that have exactly one label of ESC-10, with their labels."""
    sounds = list_sounds(manifest, split)
    labels = labels_of(sounds)
    if not labels:
        raise UserError(f"{manifest}: no sound of split {split!r} has one of the labels {', '.join(ESC10)}")
    records = [sounds[name] for name in labels]
    return list(labels.values()), [load_audio(r.path, SAMPLE_RATE, r.start, r.duration) for r in records]


def generate_set(
    pipeline: ImpactPipeline, decoding: DecodingConfig, args: argparse.Namespace
) -> tuple[list[str], list[torch.Tensor]]:
    """Generate ``--per-class`` sounds for each caption, with the same seeds for every decoding."""
    labels = [label for label in CAPTIONS for _ in range(args.per_class)]
    seeds = [zlib.crc32(f"{args.seed}/{index}".encode()) for index in range(len(labels))]
    waveforms: list[torch.Tensor] = []
    for start in range(0, len(labels), args.batch_size):
        batch = slice(start, start + args.batch_size)
        captions = [CAPTIONS[label] for label in labels[batch]]
        made = pipeline(captions, duration=args.duration, decoding=decoding, seeds=seeds[batch], progress=False)
        waveforms += [resample(each, pipeline.sample_rate, SAMPLE_RATE) for each in made.waveforms]
    return labels, waveforms


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.cards.decoding_table", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--manifest", type=Path, required=True, help="recordings with labels of ESC-10")
    add("--split", default="valid", help="reference of FD-YAMNet (default: %(default)s)")
    add("--train-split", default="train", help="fits the probe (default: %(default)s)")
    add("--aisfx", type=Path, required=True, metavar="CHECKPOINT", help="checkpoint.pth of aisfx 0.1.2")
    add("--model", default="builtin")
    add("--variants", nargs="+", default=["{}"], metavar="JSON", help="changes, such as '{\"max_rms\": 1.5}'")
    add("--preset", choices=PRESETS, default="exact")
    add("--per-class", type=int, default=10)
    add("--duration", type=float, default=5.0)
    add("--batch-size", type=int, default=20)
    add("--seed", type=int, default=0)
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    scorers = Scorers(torch.get_num_threads(), args.aisfx)
    pipeline = ImpactPipeline.from_pretrained(args.model, find_device("auto"))
    fitted, training = read_real(args.manifest, args.train_split)
    probe = Probe(fitted, scorers(training))
    own = replace(pipeline.model.spec.own_decoding, precision="auto")
    sets = {f"real, {args.split}": read_real(args.manifest, args.split)}
    for text in args.variants:
        decoding = with_preset(own, args.preset, json.loads(text))
        sets[f"{args.preset}, {text}"] = generate_set(pipeline, decoding, args)
    rows, reference = [], None
    for name, (labels, waveforms) in sets.items():
        heard = scorers(waveforms)
        embeddings = heard.embeddings["FD-YAMNet"]
        levels = [measure_level(waveform, SAMPLE_RATE) for waveform in waveforms]
        found = heard_labels(heard.scores, scorers.yamnet.class_names), probe(heard)
        accuracies = (np.mean([a == b for a, b in zip(each, labels, strict=True)]) for each in found)
        distance = "" if reference is None else f"{frechet_distance(reference, embeddings):.1f}"
        reference = embeddings if reference is None else reference
        shares = (np.mean([getattr(level, key) for level in levels]) for key in ("is_clipped", "is_silent"))
        cells = [str(len(labels)), *(f"{each:.2f}" for each in accuracies), distance]
        cells += [f"{np.trace(np.cov(embeddings.T)):.0f}", *(f"{each:.2f}" for each in shares)]
        rows.append([name, *cells, number(float(np.median([level.rms_db for level in levels])), 3)])
    print(table(("decoding", *COLUMNS), rows))


if __name__ == "__main__":
    main()
