"""`python -m lab.cards.decoding_table`: one model decoded in several ways, judged by two networks, as Markdown.

YAMNet's zero-shot rule and a linear probe on aiSFX embeddings, fitted to real recordings only, say whether the class of
the caption is heard. Next to them stand what no class score shows: clipped and silent sounds, level, and spread
(trace of the covariance of YAMNet's embeddings, and their mean cosine within a class, centred on the reference). Real
recordings of other folds, and the codec's reconstructions of both sets, bound what a model can reach with this codec.
Each class is generated for several phrasings: those of the model card, or ones that no model of ours is trained on.

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
from impact_pl.codecs.base import AudioCodec
from impact_pl.config import PRESETS, DecodingConfig, with_preset
from impact_pl.errors import UserError, user_errors
from impact_pl.evaluation.estimates import SetFeatures, frechet
from impact_pl.evaluation.labels import ESC10, heard_labels, labels_of
from impact_pl.evaluation.networks.yamnet import YamNet
from impact_pl.evaluation.sounds import list_sounds
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.precision import find_device
from lab.cards.aisfx import Aisfx
from lab.cards.class_bars import CAPTIONS
from lab.cards.phrasings import TEST, VALID
from lab.markdown import number, table

PENALTY = 10.0  # of the ridge probe, on standardised embeddings
COLUMNS = ("sounds", "YAMNet", "aiSFX probe", "FD-YAMNet", "spread", "cosine", "clipped", "silent", "level, dB")
PHRASINGS = {"captions": {label: [caption] for label, caption in CAPTIONS.items()}, "valid": VALID, "test": TEST}


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

    def heard_labels(self, sounds: Scored) -> list[str]:
        """Find the label of each sound."""
        found = (self._standardise(sounds.aisfx) @ self.weight).argmax(axis=1)
        return [list(ESC10)[index] for index in found]


@dataclass
class Judge:
    """All that a set of sounds is compared with."""

    reference: Scored
    probe: Probe
    class_names: Sequence[str]

    def hits(self, sounds: Scored) -> tuple[np.ndarray, np.ndarray]:
        """Say of each sound whether YAMNet, and the probe, hears its label: two (N,)."""
        labels = np.array(sounds.labels)
        yamnet = heard_labels(sounds.scores, self.class_names)
        return np.array(yamnet) == labels, np.array(self.probe.heard_labels(sounds)) == labels

    def row(self, sounds: Scored) -> list[str]:
        """Format one row of the table."""
        yamnet, aisfx = self.hits(sounds)
        sets = [SetFeatures(list(each.yamnet[:, None])) for each in (self.reference, sounds)]
        return [
            str(len(sounds.labels)),
            f"{yamnet.mean():.2f}",
            f"{aisfx.mean():.2f}",
            "" if sounds is self.reference else f"{frechet(*sets):.1f}",
            f"{np.trace(np.cov(sounds.yamnet.T)):.0f}",
            f"{self.cosine(sounds):.2f}",
            f"{sounds.clipped.mean():.2f}",
            f"{sounds.silent.mean():.2f}",
            number(float(np.median(sounds.level_db)), 3),
        ]

    def by_class(self, sounds: Scored) -> list[str]:
        """Format the accuracy of each class by both networks."""
        yamnet, aisfx = self.hits(sounds)
        own = [np.array(sounds.labels) == label for label in ESC10]
        return [f"{yamnet[each].mean():.2f} / {aisfx[each].mean():.2f}" for each in own]

    def cosine(self, sounds: Scored) -> float:
        """Average the cosine of two sounds of one class; 1 if all sounds of a class are the same."""
        unit = sounds.yamnet - self.reference.yamnet.mean(axis=0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        labels = np.array(sounds.labels)
        alike = (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool)
        return float((unit @ unit.T)[alike].mean())


def read_real(manifest: Path, split: str) -> tuple[list[str], list[torch.Tensor]]:
    """Read labels and waveforms of the recordings of a split that have exactly one label of ESC-10."""
    sounds = list_sounds(manifest, split)
    labels = labels_of(sounds)
    if not labels:
        raise UserError(f"{manifest}: no sound of split {split!r} has one of the labels {', '.join(ESC10)}")
    records = [sounds[name] for name in labels]
    waveforms = [load_audio(record.path, 16_000, record.start, record.duration) for record in records]
    return list(labels.values()), waveforms


@torch.no_grad()
def reconstructed(codec: AudioCodec, waveforms: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """Encode waveforms (at 16 kHz) and decode them, each with a seed of its own."""
    coded = []
    for index, waveform in enumerate(waveforms):
        latents = codec.encode(waveform[None]).chunk(2, dim=1)[0]
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{index}".encode()))
        coded.append(codec.decode(latents, generator)[0, : len(waveform)].clamp(-1, 1))
    return coded


def generate_set(pipeline: ImpactPipeline, decoding: DecodingConfig, args: argparse.Namespace, scorers: Scorers):
    """Generate ``--per-class`` sounds for each class, with the same seeds for every decoding, and score them."""
    numbered = [(label, number) for label in CAPTIONS for number in range(args.per_class)]
    labels, ways = [label for label, _ in numbered], PHRASINGS[args.phrasings]
    worded = [ways[label][number % len(ways[label])] for label, number in numbered]
    seeds = [zlib.crc32(f"{args.seed}/{index}".encode()) for index in range(len(labels))]
    waveforms: list[torch.Tensor] = []
    for start in range(0, len(labels), args.batch_size):
        batch = slice(start, start + args.batch_size)
        made = pipeline(worded[batch], duration=args.duration, decoding=decoding, seeds=seeds[batch], progress=False)
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
    parser.add_argument("--phrasings", choices=PHRASINGS, default="captions", help="(default: %(default)s)")
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
    (labels, real), (other_labels, others) = (read_real(args.manifest, each) for each in (args.split, args.train_split))
    sets = {f"real, {args.split}": scorers(labels, real, 16_000)}
    sets[f"real, {args.train_split}"] = scorers(other_labels, others, 16_000)
    judge = Judge(sets[f"real, {args.split}"], Probe(sets[f"real, {args.train_split}"]), scorers.yamnet.class_names)
    sets[f"codec, {args.split}"] = scorers(labels, reconstructed(pipeline.codec, real, args.seed), 16_000)
    coded = reconstructed(pipeline.codec, others, args.seed)
    sets[f"codec, {args.train_split} (unpaired)"] = scorers(other_labels, coded, 16_000)
    for change in changes:
        decoding = with_preset(replace(pipeline.model.spec.own_decoding, precision="auto"), args.preset, change)
        name = f"{args.preset} {json.dumps(change)}" if change else args.preset
        sets[name] = generate_set(pipeline, decoding, args, scorers)
        print(f"| {name} | {' | '.join(judge.row(sets[name]))} |", flush=True)
    print(table(("decoding", *COLUMNS), [[name, *judge.row(each)] for name, each in sets.items()]))
    print(table(("YAMNet / aiSFX", *ESC10), [[name, *judge.by_class(each)] for name, each in sets.items()]))


if __name__ == "__main__":
    main()
