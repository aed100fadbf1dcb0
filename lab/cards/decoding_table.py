"""`python -m lab.cards.decoding_table`: one model decoded in several ways, scored by two networks, as Markdown.

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
from torch import Tensor

from impact_pl.audio import SAMPLE_RATE, LevelReport, load_audio, measure_level, resample
from impact_pl.codecs.base import AudioCodec
from impact_pl.config import PRESETS, DecodingConfig, with_preset
from impact_pl.errors import UserError, user_errors
from impact_pl.evaluation.formulas import frechet_distance
from impact_pl.evaluation.labels import ESC10, heard_labels, labels_of
from impact_pl.evaluation.sounds import list_sounds
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.precision import find_device
from lab.cards.class_bars import CAPTIONS
from lab.cards.phrasings import TEST, VALID
from lab.cards.reconstruction import Heard, Scorers
from lab.markdown import number, table

PENALTY = 10.0  # of the ridge probe, on standardised embeddings
COLUMNS = ("sounds", "YAMNet", "aiSFX probe", "FD-YAMNet", "spread", "cosine", "clipped", "silent", "level, dB")
PHRASINGS = {"captions": {label: [caption] for label, caption in CAPTIONS.items()}, "valid": VALID, "test": TEST}


@dataclass
class Scored:
    """N sounds with their labels, the networks' view of them, and their levels."""

    labels: list[str]
    heard: Heard
    levels: list[LevelReport]

    @property
    def yamnet(self) -> np.ndarray:  # (N, 1024)
        return self.heard.embeddings["FD-YAMNet"]

    @property
    def aisfx(self) -> np.ndarray:  # (N, 512)
        return self.heard.embeddings["FD-aisfx"]


def score(scorers: Scorers, labels: list[str], waveforms: list[Tensor]) -> Scored:
    """Score waveforms (S_i,) at 16 kHz."""
    return Scored(labels, scorers(waveforms), [measure_level(waveform, SAMPLE_RATE) for waveform in waveforms])


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
    """The recordings and the probe that a set of sounds is compared with."""

    reference: Scored
    probe: Probe
    class_names: Sequence[str]

    def hits(self, sounds: Scored) -> tuple[np.ndarray, np.ndarray]:
        """Test whether YAMNet, and the probe, hears the label of each sound: two (N,)."""
        labels = np.array(sounds.labels)
        yamnet = heard_labels(sounds.heard.scores, self.class_names)
        return np.array(yamnet) == labels, np.array(self.probe.heard_labels(sounds)) == labels

    def row(self, sounds: Scored) -> list[str]:
        """Format one row of the table."""
        yamnet, aisfx = self.hits(sounds)
        shares = (np.mean([getattr(level, key) for level in sounds.levels]) for key in ("is_clipped", "is_silent"))
        return [
            str(len(sounds.labels)),
            f"{yamnet.mean():.2f}",
            f"{aisfx.mean():.2f}",
            "" if sounds is self.reference else f"{frechet_distance(self.reference.yamnet, sounds.yamnet):.1f}",
            f"{np.trace(np.cov(sounds.yamnet.T)):.0f}",
            f"{self.cosine(sounds):.2f}",
            *(f"{share:.2f}" for share in shares),
            number(float(np.median([level.rms_db for level in sounds.levels])), 3),
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


def read_real(manifest: Path, split: str) -> tuple[list[str], list[Tensor]]:
    """Read labels and waveforms of the recordings of a split that have exactly one label of ESC-10."""
    sounds = list_sounds(manifest, split)
    labels = labels_of(sounds)
    if not labels:
        raise UserError(f"{manifest}: no sound of split {split!r} has one of the labels {', '.join(ESC10)}")
    records = [sounds[name] for name in labels]
    waveforms = [load_audio(record.path, SAMPLE_RATE, record.start, record.duration) for record in records]
    return list(labels.values()), waveforms


@torch.no_grad()
def reconstructed(codec: AudioCodec, waveforms: list[Tensor], seed: int) -> list[Tensor]:
    """Encode waveforms (at 16 kHz) and decode them, each with a seed of its own."""
    coded = []
    for index, waveform in enumerate(waveforms):
        latents = codec.encode(waveform[None]).chunk(2, dim=1)[0]
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{index}".encode()))
        coded.append(codec.decode(latents, generator)[0, : len(waveform)].clamp(-1, 1))
    return coded


def generate_set(
    pipeline: ImpactPipeline, decoding: DecodingConfig, args: argparse.Namespace, scorers: Scorers
) -> Scored:
    """Generate ``--per-class`` sounds for each class, with the same seeds for every decoding, and score them."""
    numbered = [(label, number) for label in CAPTIONS for number in range(args.per_class)]
    labels, ways = [label for label, _ in numbered], PHRASINGS[args.phrasings]
    worded = [ways[label][number % len(ways[label])] for label, number in numbered]
    seeds = [zlib.crc32(f"{args.seed}/{index}".encode()) for index in range(len(labels))]
    waveforms: list[Tensor] = []
    for start in range(0, len(labels), args.batch_size):
        batch = slice(start, start + args.batch_size)
        made = pipeline(worded[batch], duration=args.duration, decoding=decoding, seeds=seeds[batch], progress=False)
        waveforms += [resample(each, pipeline.sample_rate, SAMPLE_RATE) for each in made.waveforms]
    return score(scorers, labels, waveforms)


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
    add("--phrasings", choices=PHRASINGS, default="captions", help="(default: %(default)s)")
    add("--per-class", type=int, default=10)
    add("--duration", type=float, default=5.0)
    add("--batch-size", type=int, default=20)
    add("--seed", type=int, default=0)
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    changes: list[dict[str, Any]] = [json.loads(each) for each in args.variants]
    scorers = Scorers(torch.get_num_threads(), args.aisfx)
    pipeline = ImpactPipeline.from_pretrained(args.model, find_device("auto"))
    (labels, real), (other_labels, others) = (read_real(args.manifest, each) for each in (args.split, args.train_split))
    sets = {f"real, {args.split}": score(scorers, labels, real)}
    sets[f"real, {args.train_split}"] = score(scorers, other_labels, others)
    judge = Judge(sets[f"real, {args.split}"], Probe(sets[f"real, {args.train_split}"]), scorers.yamnet.class_names)
    sets[f"codec, {args.split}"] = score(scorers, labels, reconstructed(pipeline.codec, real, args.seed))
    coded = reconstructed(pipeline.codec, others, args.seed)
    sets[f"codec, {args.train_split} (unpaired)"] = score(scorers, other_labels, coded)
    for change in changes:
        decoding = with_preset(replace(pipeline.model.spec.own_decoding, precision="auto"), args.preset, change)
        name = f"{args.preset} {json.dumps(change)}" if change else args.preset
        sets[name] = generate_set(pipeline, decoding, args, scorers)
        print(f"| {name} | {' | '.join(judge.row(sets[name]))} |", flush=True)
    print(table(("decoding", *COLUMNS), [[name, *judge.row(each)] for name, each in sets.items()]))
    print(table(("YAMNet / aiSFX", *ESC10), [[name, *judge.by_class(each)] for name, each in sets.items()]))


if __name__ == "__main__":
    main()
