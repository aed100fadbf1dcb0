"""Generate, encode and score the sounds behind the tables of ``model_table``, and keep all of them in one folder."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from impact_pl.audio import SAMPLE_RATE, audio_seconds, fit_length, load_audio
from impact_pl.codecs.registry import load_codec
from impact_pl.data.lists import Sounds
from impact_pl.data.manifest import Record, file_stem, write_manifest
from impact_pl.errors import UserError
from impact_pl.evaluation.cache import extract
from impact_pl.evaluation.copies import envelope, nearest_embeddings, nearest_envelopes
from impact_pl.evaluation.estimates import SetFeatures
from impact_pl.evaluation.evaluate import evaluate
from impact_pl.evaluation.labels import labels_of
from impact_pl.evaluation.networks.yamnet import YamNet
from impact_pl.evaluation.reconstruction import write_clip
from impact_pl.evaluation.request import EvaluationRequest
from impact_pl.evaluation.sounds import distinct, draw, levels_of, list_sounds, white_noise
from impact_pl.identity import tensors_identity
from impact_pl.precompute.segments import plan_segments
from impact_pl.progress import progress
from impact_pl.text_encoders.registry import load_text_encoder
from lab.cards.class_bars import CAPTIONS, Labelled, class_rows
from lab.cards.replay import replay_rows

REPLAYED = "codec, training"  # shows what replaying would look like
CLASS_ROWS = ("real, held out", "real, training", "codec, held out", REPLAYED, "generated", "white noise")
REPLAY_ROWS = tuple(name for name in CLASS_ROWS if name != "real, training")


@dataclass
class Heard:
    """YAMNet's features of a set of sounds, and their envelopes (N, F, T)."""

    clips: SetFeatures
    envelopes: Tensor


class Bars:
    """Compute the tables of a model from real clips, a codec and generated sounds.

    Args:
        args: Arguments of ``model_table``.
        codec: Name of the codec.
        generator: (name of a set, file of captions, sounds per caption) -> sounds in the order of the captions, each of
            a caption's with its own seed.

    Raises:
        UserError: There are no such clips, no held-out captions, or a class without clips.
    """

    def __init__(self, args: argparse.Namespace, codec: str, generator: Callable[[str, Path, int], list[Path]]):
        self.args, self.generator = args, generator
        self.held_out = distinct(list_sounds(args.manifest, args.split))
        self.training = distinct(list_sounds(args.manifest, args.train_split))
        for split, sounds in {args.split: self.held_out, args.train_split: self.training}.items():
            lacking = [label for label in CAPTIONS if label not in labels_of(sounds).values()]
            if lacking:
                raise UserError(f"{args.manifest}: no clip of split {split!r} has the label {lacking[0]!r} of the ten")
        self.captioned = self._captioned()
        self.codec = load_codec(codec)
        self.codec_folder = args.out / f"codec-{tensors_identity(self.codec.state_dict())}-{args.padding}"
        self.yamnet = YamNet(args.threads)

    def _captioned(self) -> Sounds:
        """Select held-out clips with a caption, at most ``limit``, drawn with the seed."""
        names = [name for name, record in self.held_out.items() if record.caption]
        if len(names) < 2:
            raise UserError(f"{self.args.manifest}: {len(names)} clips of split {self.args.split!r} have a caption")
        if self.args.limit is not None:
            names = draw(names, self.args.limit, np.random.default_rng(self.args.seed))
        return {name: self.held_out[name] for name in names}

    def figures(self) -> dict:
        """Compute all figures of the tables."""
        classes, class_sets = self.classes()
        captions, caption_sets = self.captions()
        parts = self.training_parts()
        bank = self.hear("all training clips", list(parts.values()))
        replay = {
            "classes": replay_tables("classes", class_sets, bank, list(parts)),
            "captions": replay_tables("captions", caption_sets, bank, list(parts)),
        }
        counts = {"held_out": len(self.held_out), "training": len(self.training), "training_parts": len(parts)}
        return counts | {"classes": classes, "captions": captions, "replay": replay}

    def classes(self) -> tuple[dict, dict[str, Heard]]:
        """Compute the figures of the ten classes by row, and the sounds to search among training clips."""
        file = self.args.out / "classes.txt"
        labels = {"generated": [label for label in CAPTIONS for _ in range(self.args.clips)]}
        file.write_text("".join(f"{caption}\n" for caption in CAPTIONS.values()), encoding="utf-8")
        made = as_records(self.generator("classes", file, self.args.clips))
        heard = {"generated": self.hear("generated, classes", made)}
        for name, sounds in {"held out": self.held_out, "training": self.training}.items():
            label_of = labels_of(sounds)
            real = [sounds[each] for each in label_of]
            for kind, records in {"real": real, "codec": self.coded(f"{name}, classes", real)}.items():
                labels[f"{kind}, {name}"] = list(label_of.values())
                heard[f"{kind}, {name}"] = self.hear(f"{kind}, {name}, classes", records)
        labels["white noise"] = labels["real, held out"]
        heard["white noise"] = self.noise([self.held_out[name] for name in labels_of(self.held_out)])
        rows = {name: Labelled(labels[name], heard[name].clips) for name in CLASS_ROWS}
        figures = class_rows(rows["real, held out"], rows, list(self.yamnet.class_names), self.args.seed)
        return figures, {name: heard[name] for name in REPLAY_ROWS}

    def captions(self) -> tuple[dict, dict[str, Heard]]:
        """Evaluate the held-out captions, and return the sounds to search among training clips."""
        file, real = self.args.out / "captions.jsonl", list(self.captioned.values())
        write_manifest(file, real)
        made, coded = as_records(self.generator("captions", file, 1)), self.coded("held out", real)
        some = draw(list(self.training.values()), len(real), np.random.default_rng(self.args.seed))
        heard = {
            "real, held out": self.hear("real, held out", real),
            "codec, held out": self.hear("codec, held out", coded),
            REPLAYED: self.hear(REPLAYED, self.coded("training", some)),
            "generated": self.hear("generated, captions", made),
            "white noise": self.noise(real),
        }
        generated = dict(zip(self.captioned, made, strict=True))
        request = EvaluationRequest(
            generated=generated,
            reference=self.captioned,
            floor=self.training,
            baselines={
                "codec": dict(zip(self.captioned, coded, strict=True)),
                "captions shuffled": shuffled(generated, self.captioned),
            },
            captions={name: record.caption or "" for name, record in self.captioned.items()},
            labels=labels_of(self.captioned),
            duration=self.args.duration,
            padding=self.args.padding,
            seed=self.args.seed,
        )
        figures = evaluate(request, [self.yamnet], load_text_encoder("minilm"), self.args.out / "features")
        return figures, {name: heard[name] for name in REPLAY_ROWS}

    def training_parts(self) -> Sounds:
        """List all training clips, cut as for training into parts no longer than a generated sound."""
        parts = {}
        for record in self.training.values():
            try:
                spans = plan_segments(record, audio_seconds(record.path), self.args.duration)
            except ValueError:
                continue  # too short, or unreadable: not used for training
            if len(spans) == 1:
                parts[record.id] = record
                continue
            for start, duration in spans:
                parts[f"{record.id} at {start:g} s"] = Record(record.id, record.path, start, duration)
        return parts

    def hear(self, what: str, records: list[Record]) -> Heard:
        """Compute features of sounds fitted to one length, cached in the folder by content."""
        with progress(f"hearing {what}", len(records), unit="sounds") as bar:
            folder = self.args.out / "features"
            features = extract(
                self.yamnet, records, self.args.duration, folder, lambda done, total: bar.advance(), self.args.padding
            )
        return Heard(self.yamnet.collect(features), torch.stack([self.envelope(record) for record in records]))

    def envelope(self, record: Record) -> Tensor:
        waveform = load_audio(record.path, SAMPLE_RATE, record.start, record.duration)
        return envelope(fit_length(waveform, round(self.args.duration * SAMPLE_RATE), self.args.padding))

    def coded(self, what: str, records: list[Record]) -> list[Record]:
        """Reconstruct clips with the codec, in a folder for this very codec."""
        with progress(f"reconstructing {what}", len(records), unit="sounds") as bar:
            for record in records:
                write_clip(record, self.codec, self.args.duration, self.codec_folder, padding=self.args.padding)
                bar.advance()
        return as_records([self.codec_folder / f"{file_stem(record.id)}.flac" for record in records])

    def noise(self, records: list[Record]) -> Heard:
        """Generate white noise at the level of each clip."""
        levels = levels_of(records, self.args.duration, self.args.padding)
        noises = list(white_noise(levels, self.args.duration, self.args.seed))
        envelopes = torch.stack([envelope(torch.from_numpy(each)) for each in noises])
        return Heard(self.yamnet.collect([self.yamnet(each) for each in noises]), envelopes)


def replay_tables(what: str, sets: dict[str, Heard], bank: Heard, ids: list[str]) -> dict[str, dict]:
    """Find the nearest training clips, by both measures."""
    training = np.concatenate(bank.clips.embeddings)  # (M, 1024)
    embeddings, envelopes = {}, {}
    with progress(f"nearest training clips, {what}", len(sets), unit="sets") as bar:
        for name, heard in sets.items():
            embeddings[name] = nearest_embeddings(np.concatenate(heard.clips.embeddings), training)
            envelopes[name] = nearest_envelopes(heard.envelopes, bank.envelopes)
            bar.advance()
    return {
        "embedding": replay_rows(embeddings, ids, REPLAYED),
        "envelope": replay_rows(envelopes, ids, REPLAYED),
    }


def as_records(files: list[Path]) -> list[Record]:
    return [Record(file.stem, str(file)) for file in files]


def shuffled(sounds: Sounds, captioned: Sounds) -> Sounds:
    """Assign to each name the sound of the caption half the alphabetical list away."""
    names = sorted(sounds, key=lambda name: captioned[name].caption or "")
    half = len(names) // 2
    return {name: sounds[other] for name, other in zip(names, names[half:] + names[:half], strict=True)}
