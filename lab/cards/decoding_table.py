"""`python -m lab.cards.decoding_table`: one model decoded in several ways, judged by two networks, as Markdown.

YAMNet's zero-shot rule and a linear probe on aiSFX embeddings, fitted to real recordings only, say whether the class of
the caption is heard. Next to them stand what no class score shows: clipped and silent sounds, level, and spread.

Dimension key: N sounds, D numbers per embedding, L labels.
"""

import argparse
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from impact_pl.audio import load_audio, measure_level, resample
from impact_pl.config import PRESETS, DecodingConfig, with_preset
from impact_pl.errors import UserError, user_errors
from impact_pl.evaluation.estimates import SetFeatures, frechet
from impact_pl.evaluation.labels import ESC10, heard_labels, labels_of
from impact_pl.evaluation.networks.yamnet import YamNet
from impact_pl.evaluation.sounds import list_sounds
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.precision import find_device
from impact_pl.progress import progress
from lab.cards.aisfx import Aisfx
from lab.cards.class_bars import CAPTIONS
from lab.markdown import number, table

PENALTY = 10.0  # of the ridge probe, on standardised embeddings
COLUMNS = ("sounds", "YAMNet", "aiSFX probe", "FD-YAMNet", "spread", "clipped", "silent", "level, dB")


@dataclass
class Scored:
    """A labelled set of sounds: what both networks say of them, which are clipped or silent, and their levels (N,)."""

    labels: list[str]
    yamnet: np.ndarray  # (N, 1024)
    scores: np.ndarray  # (N, 521)
    aisfx: np.ndarray  # (N, 512)
    clipped: np.ndarray
    silent: np.ndarray
    level_db: np.ndarray


class Scorers:
    """Both networks."""

    def __init__(self, aisfx_weights: Path) -> None:
        self.yamnet, self.aisfx = YamNet(torch.get_num_threads()), Aisfx(aisfx_weights)

    def __call__(self, labels: list[str], waveforms: list[torch.Tensor], sample_rate: int) -> Scored:
        heard, embedded, levels = [], [], []
        for waveform in waveforms:
            heard.append(self.yamnet(resample(waveform, sample_rate, self.yamnet.sample_rate)))
            features = self.aisfx(resample(waveform, sample_rate, self.aisfx.sample_rate).numpy())
            embedded.append(features.embeddings.mean(axis=0))
            levels.append(measure_level(waveform, sample_rate))
        return Scored(
            labels,
            np.stack([each.clip_embedding for each in heard]),
            np.stack([each.clip_scores for each in heard]),
            np.stack(embedded),
            np.array([each.is_clipped for each in levels]),
            np.array([each.is_silent for each in levels]),
            np.array([each.rms_db for each in levels]),
        )


class Probe:
    """Ridge regression from standardised aiSFX embeddings to one-hot labels."""

    def __init__(self, real: Scored) -> None:
        self.mean, self.std = real.aisfx.mean(axis=0), real.aisfx.std(axis=0) + 1e-6
        x = self._standardise(real.aisfx)
        y = np.array([[label == name for name in ESC10] for label in real.labels], dtype=float)
        self.weight = np.linalg.solve(x.T @ x + PENALTY * np.eye(x.shape[1]), x.T @ y)

    def _standardise(self, embeddings: np.ndarray) -> np.ndarray:
        x = (embeddings - self.mean) / self.std
        return np.concatenate([x, np.ones((len(x), 1))], axis=1)

    def accuracy(self, sounds: Scored) -> float:
        found = (self._standardise(sounds.aisfx) @ self.weight).argmax(axis=1)
        return float(np.mean([list(ESC10)[index] == label for index, label in zip(found, sounds.labels, strict=True)]))


def figures(sounds: Scored, reference: Scored, probe: Probe, class_names: Sequence[str]) -> list[str]:
    """One row of the table."""
    heard = heard_labels(sounds.scores, class_names)
    distance = frechet(SetFeatures(list(reference.yamnet[:, None])), SetFeatures(list(sounds.yamnet[:, None])))
    return [
        str(len(sounds.labels)),
        f"{np.mean([a == b for a, b in zip(heard, sounds.labels, strict=True)]):.2f}",
        f"{probe.accuracy(sounds):.2f}",
        "" if sounds is reference else f"{distance:.1f}",
        f"{np.trace(np.cov(sounds.yamnet.T)):.0f}",
        f"{sounds.clipped.mean():.2f}",
        f"{sounds.silent.mean():.2f}",
        number(float(np.median(sounds.level_db)), 3),
    ]


def read_real(manifest: Path, split: str, scorers: Scorers) -> Scored:
    """Score the recordings of a split that have exactly one label of ESC-10."""
    sounds = list_sounds(manifest, split)
    labels = labels_of(sounds)
    if not labels:
        raise UserError(f"{manifest}: no sound of split {split!r} has one of the labels {', '.join(ESC10)}")
    with progress(f"real, {split}", len(labels)) as bar:
        waveforms = []
        for name in labels:
            record = sounds[name]
            waveforms.append(load_audio(record.path, 16_000, record.start, record.duration))
            bar.advance()
        return scorers(list(labels.values()), waveforms, 16_000)


def generate_set(pipeline: ImpactPipeline, decoding: DecodingConfig, args: argparse.Namespace, scorers: Scorers):
    """Generate ``--per-class`` sounds for each caption, with the same seeds for every decoding, and score them."""
    labels = [label for label in CAPTIONS for _ in range(args.per_class)]
    seeds = [zlib.crc32(f"{args.seed}/{index}".encode()) for index in range(len(labels))]
    waveforms: list[torch.Tensor] = []
    for start in range(0, len(labels), args.batch_size):
        batch = slice(start, start + args.batch_size)
        captions = [CAPTIONS[label] for label in labels[batch]]
        made = pipeline(captions, duration=args.duration, decoding=decoding, seeds=seeds[batch], progress=False)
        waveforms += list(made.waveforms)
    return scorers(labels, waveforms, pipeline.sample_rate)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.cards.decoding_table", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, required=True, help="recordings with labels of ESC-10")
    parser.add_argument("--split", default="valid", help="reference of FD-YAMNet (default: %(default)s)")
    parser.add_argument("--train-split", default="train", help="fits the probe (default: %(default)s)")
    parser.add_argument("--aisfx", type=Path, required=True, metavar="CHECKPOINT", help="checkpoint.pth of aisfx 0.1.2")
    parser.add_argument("--model", default="builtin")
    parser.add_argument(
        "--variants", nargs="+", default=["{}"], metavar="JSON", help="changes, such as '{\"max_rms\": 1.5}'"
    )
    parser.add_argument("--preset", choices=PRESETS, default="exact")
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--duration", type=float, default=5.0)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    changes: list[dict[str, Any]] = [json.loads(each) for each in args.variants]
    scorers, pipeline = Scorers(args.aisfx), ImpactPipeline.from_pretrained(args.model, find_device("auto"))
    reference = read_real(args.manifest, args.split, scorers)
    probe = Probe(read_real(args.manifest, args.train_split, scorers))
    names = scorers.yamnet.class_names
    rows = [[f"real, {args.split}", *figures(reference, reference, probe, names)]]
    for change in changes:
        own = replace(pipeline.model.spec.own_decoding, precision="auto")
        made = generate_set(pipeline, with_preset(own, args.preset, change), args, scorers)
        rows.append(
            [json.dumps(change) if change else f"preset {args.preset}", *figures(made, reference, probe, names)]
        )
        print(f"| {' | '.join(rows[-1])} |", flush=True)
    print(table(("decoding", *COLUMNS), rows))


if __name__ == "__main__":
    main()
