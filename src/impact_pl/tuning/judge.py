"""Judge a tuned model: are its own sounds recognised, are old ones kept, and does it copy training clips?

Dimension key: N sounds, D dimensions of an embedding, F bands, T frames, S samples.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from impact_pl.audio import SAMPLE_RATE, load_audio, resample, within_full_scale
from impact_pl.codecs.base import AudioCodec
from impact_pl.data.shards import LatentDataset
from impact_pl.errors import UserError
from impact_pl.evaluation.copies import CopyVerdict, envelope, judge_copies, nearest_embeddings, nearest_envelopes
from impact_pl.evaluation.intervals import Interval, bootstrap_interval
from impact_pl.evaluation.networks.yamnet import YamNet
from impact_pl.progress import Bar, Lines

OTHER = "your other sounds"  # name of the captions with too few clips to be a class of their own
FEWEST_OF_CLASS = 3
TOP_CLASSES = 3


@dataclass
class Heard:
    """A set of sounds with their captions, envelopes (N, F, T) and, if installed, YAMNet's embeddings (N, D)."""

    names: list[str]
    captions: list[str]
    envelopes: Tensor
    embeddings: np.ndarray | None
    top_classes: list[str]  # the most likely of YAMNet's classes, per sound

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class Share:
    """Fraction of a set's sounds that are recognised, with its 95 % interval."""

    value: float
    interval: Interval
    num: int

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.0%} ({low:.0%} to {high:.0%}, N = {self.num})"


@dataclass
class Judgement:
    """All figures of the page. ``recognised`` is empty without YAMNet."""

    missing: str  # what YAMNet needs, if it is not installed
    recognised: dict[str, Share]
    heard_as: dict[str, str]  # set of sounds -> YAMNet's most frequent classes
    verdict: CopyVerdict
    nearest: list[tuple[str, str, float, float | None]]  # per sound: name, training clip, envelope, embedding
    closeness: dict[str, float]  # set of sounds -> median correlation with the nearest training clip


class Ear:
    """Compute envelopes, and YAMNet's features if the extra ``eval`` is installed; ``missing`` says what is not."""

    def __init__(self) -> None:
        self.yamnet, self.missing = None, ""
        try:
            self.yamnet = YamNet()
        except UserError as error:
            self.missing = str(error)

    def files(self, files: list[Path], captions: list[str], bar: Bar | Lines) -> Heard:
        """Hear sound files."""
        return self._hear([file.stem for file in files], captions, (load_audio(file) for file in files), bar)

    @torch.no_grad()
    def latents(self, shards: LatentDataset, codec: AudioCodec, bar: Bar | Lines) -> Heard:
        """Hear stored latents, decoded by the codec: recordings as a perfect model would reproduce them."""
        samples = [shards[i] for i in range(len(shards))]
        device = next(codec.parameters(), torch.empty(0)).device

        def waveforms() -> Iterator[Tensor]:
            for i, sample in enumerate(samples):
                mean = sample["moments"].chunk(2)[0][None].to(device)  # (1, C, H, W)
                waveform = codec.decode(mean, [torch.Generator().manual_seed(i)])
                yield resample(within_full_scale(waveform)[0].cpu(), codec.sample_rate, SAMPLE_RATE)

        return self._hear([s["key"] for s in samples], [s["caption"] for s in samples], waveforms(), bar)

    def _hear(self, names: list[str], captions: list[str], waveforms: Iterable[Tensor], bar: Bar | Lines) -> Heard:
        envelopes, embeddings, top = [], [], []
        for waveform in waveforms:
            envelopes.append(envelope(waveform))
            if self.yamnet is not None:
                features = self.yamnet(waveform.numpy())
                embeddings.append(features.clip_embedding)
                top.append(self.yamnet.class_names[int(features.clip_scores.argmax())])
            bar.advance()
        return Heard(names, captions, torch.stack(envelopes), np.stack(embeddings) if embeddings else None, top)


def judge(
    training: Heard, held_out: Heard, replayed: Heard, old: Heard | None, sounds: dict[str, Heard], missing: str = ""
) -> Judgement:
    """Compute all figures.

    Args:
        training: Own training clips, decoded from their latents.
        held_out: Own held-out clips, likewise.
        replayed: Training clips decoded once more: what copies look like.
        old: Sounds of the starting model, the references of its classes; None without replay.
        sounds: ``own before``, ``own after``, ``old before``, ``old after``.
        missing: What YAMNet needs, if it is not installed.
    """
    recognised: dict[str, Share] = {}
    if training.embeddings is not None:
        classes = class_centres(training, old)
        for name, heard in {**sounds, "own recordings, held out": held_out}.items():
            if len(heard):
                recognised[name] = recognised_share(heard, classes)
    after = sounds["own after"]
    similarity, whose = nearest_envelopes(after.envelopes, training.envelopes)
    cosine = None
    if after.embeddings is not None and training.embeddings is not None:
        cosine = (unit(after.embeddings) * unit(training.embeddings)[whose]).sum(axis=1)
    closeness = {
        "held-out recordings": nearest_envelopes(held_out.envelopes, training.envelopes)[0],
        "training clips again": nearest_envelopes(replayed.envelopes, training.envelopes)[0],
        "generated": similarity,
    }
    verdict = judge_copies(similarity, closeness["held-out recordings"], closeness["training clips again"])
    nearest = [
        (f"{caption} ({name})", training.names[index], float(similarity[i]), None if cosine is None else cosine[i])
        for i, (name, caption, index) in enumerate(zip(after.names, after.captions, whose, strict=True))
    ]
    heard_as = {name: most_frequent(heard.top_classes) for name, heard in sounds.items() if heard.top_classes}
    if held_out.top_classes:
        heard_as["own recordings, held out"] = most_frequent(held_out.top_classes)
    medians = {name: float(np.median(values)) for name, values in closeness.items()}
    return Judgement(missing, recognised, heard_as, verdict, nearest, medians)


def unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def class_of(caption: str, counts: Counter[str]) -> str:
    return caption if counts[caption] >= FEWEST_OF_CLASS else OTHER


def class_centres(training: Heard, old: Heard | None) -> tuple[dict[str, str], list[str], np.ndarray]:
    """Average the embeddings of each class: own captions with enough clips, the other own clips, and the old captions.

    Returns:
        Class of each caption, names of the classes, and their centres (K, D) of unit length.
    """
    assert training.embeddings is not None
    counts = Counter(training.captions)
    class_of_caption = {caption: class_of(caption, counts) for caption in counts}
    parts = [(class_of_caption[c], e) for c, e in zip(training.captions, unit(training.embeddings), strict=True)]
    if old is not None:
        assert old.embeddings is not None
        class_of_caption |= {caption: caption for caption in old.captions if caption not in counts}
        parts += [(class_of_caption[c], e) for c, e in zip(old.captions, unit(old.embeddings), strict=True)]
    names = list(dict.fromkeys(name for name, _ in parts))
    centres = np.stack([np.mean([e for name, e in parts if name == each], axis=0) for each in names])
    return class_of_caption, names, unit(centres)


def recognised_share(heard: Heard, classes: tuple[dict[str, str], list[str], np.ndarray]) -> Share:
    """Compute the fraction of sounds whose nearest class is that of their caption."""
    class_of_caption, names, centres = classes
    assert heard.embeddings is not None
    _, nearest = nearest_embeddings(heard.embeddings, centres)
    right = [
        names[index] == class_of_caption.get(caption, OTHER)
        for caption, index in zip(heard.captions, nearest, strict=True)
    ]
    interval = bootstrap_interval(np.array(right, dtype=float), np.random.default_rng(0))
    return Share(float(np.mean(right)), interval, len(right))


def most_frequent(classes: list[str]) -> str:
    """Format the most frequent of YAMNet's classes: "Snare drum 62 %, Drum 20 %"."""
    return ", ".join(f"{name} {count / len(classes):.0%}" for name, count in Counter(classes).most_common(TOP_CLASSES))
