"""Generated sounds, real ones, captions and baselines -> one table of metrics, every row under equal conditions.

What makes the rows comparable:
- **The same N.** A Frechet distance and an inception score depend on N, so one subset of N sounds, drawn with a seed,
  is used on every row.
- **The same length.** For YAMNet every sound is cut or zero-padded to one duration before anything is computed, the
  real ones too: how long a sound lasts is then judged, the padding itself is not. The networks of published tables
  take whole sounds, as audioldm_eval gives them, unless a duration is asked for.
- **The floor.** Real sounds that are not in the reference, against the reference: what a perfect model reaches at N.
- **The list.** With a test list, N is its length, and nothing is drawn.
- **One embedding a sound.** FD-YAMNet takes the mean over a sound's patches: sounds are independent draws, patches of
  one sound are not. (Fewer sounds than dimensions is no obstacle to the formula.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from impact_pl.audio import resample
from impact_pl.data.lists import ClipList
from impact_pl.data.manifest import Record
from impact_pl.evaluation.cache import Featurizer, extract
from impact_pl.evaluation.features import SAMPLE_RATE, YamNet
from impact_pl.evaluation.figures import Clips, clips_of, figures_of
from impact_pl.evaluation.judges import ClapJudge, Judge, TextJudge, judged
from impact_pl.evaluation.networks.clap import Clap
from impact_pl.evaluation.provenance import versions
from impact_pl.evaluation.sounds import Sounds, distinct, draw, longest, part_of, white_noise
from impact_pl.text import TextEncoder

FEW_SOUNDS = 50
Progress = Callable[[str, int, int], None]  # (what, done, total)


@dataclass
class EvaluationRequest:
    """What to compare. Sounds of different sets belong together when their names (file stem, record id) are equal."""

    generated: Sounds
    reference: Sounds
    floor: Sounds = field(default_factory=dict)  # {}: reference sounds that no row uses; with a test list: no floor
    baselines: dict[str, Sounds] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)  # by sound name
    paired: bool = True  # generated sounds and baselines have the names of their references
    duration: float | None = None  # seconds; None: the longest generated sound for YAMNet, whole sounds for others
    num_samples: int | None = None  # None: as many as every row has
    seed: int = 0
    test_list: ClipList | None = None  # the sets hold its clips, by clip id


def evaluate(
    request: EvaluationRequest,
    networks: Sequence[Featurizer],
    text_encoder: TextEncoder | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> dict:
    """Every figure of every row on every network, as a dictionary for json: settings, ``rows``, ``notes``.

    Rows: ``real`` (the floor), each baseline, ``generated``, ``noise`` (white, at the reference's level). A figure that
    does not apply to a row is None.

    Raises:
        ValueError: fewer than two sounds a row, or unmatched names (the message lists some); no captions for CLAP.
    """
    names, reference_names, floor = choose_sounds(request)
    sets = {"real": floor} if floor else {}
    for label, sounds in request.baselines.items():
        sets[label] = [sounds[name] for name in _pick(sounds, names, request)]
    sets["generated"] = [request.generated[name] for name in names]
    reference = [request.reference[name] for name in reference_names]
    duration = request.duration or longest(sets["generated"])
    captions = [request.captions[name] for name in names] if set(names) <= set(request.captions) else None

    rows: dict[str, dict] = {label: {"name": label} for label in (*sets, "noise")}
    described, judges = {}, []
    for network in networks:
        fitted = duration if isinstance(network, YamNet) else request.duration
        judge = make_judge(network, captions, text_encoder)
        clips = listen(network, {"reference": reference, **sets}, fitted, cache_dir, progress)
        noises = white_noise(reference, duration, request.seed)
        clips["noise"] = clips_of([network(resample_noise(noise, network.sample_rate)) for noise in noises])
        for label, row in rows.items():
            row |= row_on(network.name, label, clips[label], clips["reference"], request, judge)
        described[network.name] = {"identity": network.identity, "fitted_seconds": fitted}
        judges += [judge] if judge is not None else []
    return {
        "format": 2,
        "test_list": describe_list(request),
        "num_samples": len(names),
        "duration_seconds": duration,
        "paired": request.paired,
        "seed": request.seed,
        "networks": described,
        "text_judges": {judge.key: judge.identity for judge in judges},
        "versions": versions(),
        "rows": list(rows.values()),
        "notes": notes(request, len(names), list(described), [judge.key for judge in judges]),
    }


def listen(
    network: Featurizer,
    sets: dict[str, list[Record]],
    duration: float | None,
    cache_dir: str | Path | None,
    progress: Progress | None,
) -> dict[str, Clips]:
    """What a network says about each set of sounds."""
    clips = {}
    for label, records in sets.items():
        report = None if progress is None else partial(progress, f"{network.name}, {label}")
        clips[label] = clips_of(extract(network, records, duration, cache_dir, report))
    return clips


def row_on(
    network: str, label: str, clips: Clips, reference: Clips, request: EvaluationRequest, judge: Judge | None
) -> dict:
    """The figures of one row on one network."""
    generator = np.random.default_rng(request.seed)
    row = figures_of(network, clips, reference, request.paired and label != "real", generator)
    if judge is not None:
        said = request.paired or label == "generated"  # else the row's sounds have captions that nobody knows
        sounds = reference if label == "real" else clips  # the floor's captions are others; its text figure is
        row |= judged(judge, sounds if said else None, generator)  # that of the reference, whose captions are known
    return row


def make_judge(network: Featurizer, captions: list[str] | None, encoder: TextEncoder | None) -> Judge | None:
    """What judges this network's features by the captions, if anything does.

    Raises:
        ValueError: CLAP without a caption for every sound.
    """
    if isinstance(network, Clap):
        if captions is None:
            raise ValueError("the CLAP score needs a caption for every generated sound: give --captions or --test-list")
        return ClapJudge(network, captions)
    if isinstance(network, YamNet) and encoder is not None and captions is not None:
        return TextJudge(encoder, captions, network.class_names)
    return None


def describe_list(request: EvaluationRequest) -> dict | None:
    """The test list as metrics.json names it; None where none was given."""
    clips = request.test_list
    return None if clips is None else {"name": clips.name, "num_clips": len(clips.captions), "checksum": clips.checksum}


def resample_noise(noise: np.ndarray, sample_rate: int) -> np.ndarray:
    """White noise (S,) at 16 kHz as another network takes it."""
    return resample(torch.from_numpy(noise), SAMPLE_RATE, sample_rate).numpy()


def choose_sounds(request: EvaluationRequest) -> tuple[list[str], list[str], list[Record]]:
    """Draw the same N for every row: names of generated sounds, names of reference sounds, records of the floor.

    A sound that stands in a set several times (a manifest has one record a caption) is one sound: it is drawn once, and
    of the sounds generated for its captions the first stands for it.

    Raises:
        ValueError: unmatched names, or sets that do not allow N sounds a row.
    """
    if request.test_list is not None and not request.paired:
        raise ValueError("a test list pairs sounds by its clips: it cannot be combined with --unpaired")
    if request.paired:
        check_pairs(request)
    reference = distinct(request.reference)
    paired_with = {name: request.reference[name] for name in request.generated} if request.paired else request.generated
    generated = list(distinct(paired_with))
    taken = {(record.path, record.start) for record in reference.values()}
    floor = [record for record in distinct(request.floor).values() if (record.path, record.start) not in taken]
    halved = not request.floor and request.test_list is None
    limits = [
        len(generated),
        *(len(sounds if request.paired else distinct(sounds)) for sounds in request.baselines.values()),
    ]
    limits += [len(reference) // 2] if halved else [len(reference)]
    limits += [len(floor)] if request.floor else []
    num = wanted(request, limits, halved)
    generator = np.random.default_rng(request.seed)
    names = draw(generated, num, generator)
    reference_names = names if request.paired else draw(list(reference), num, generator)
    if halved:
        used = {part_of(request.reference[name]) for name in reference_names}
        floor = [record for record in reference.values() if part_of(record) not in used]
    return names, reference_names, draw(floor, num, generator) if floor else []


def check_pairs(request: EvaluationRequest) -> None:
    """Every generated sound needs one of its name in the reference and in each baseline.

    Raises:
        ValueError: some have none; a few are named.
    """
    for label, sounds in {"the reference": request.reference, **request.baselines}.items():
        missing = sorted(set(request.generated) - set(sounds))
        if missing:
            where = label if sounds is request.reference else f"baseline {label!r}"
            raise ValueError(
                f"{len(missing)} of {len(request.generated)} generated sounds have no sound of their name "
                f"in {where} ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); "
                "give matching names, or compare without pairs (--unpaired)"
            )


def wanted(request: EvaluationRequest, limits: list[int], halved: bool) -> int:
    """N, within what the sets allow.

    Raises:
        ValueError: they do not allow it, or a test list and a number are both given.
    """
    num = min(limits) if request.num_samples is None else request.num_samples
    if request.test_list is not None:
        num = len(request.test_list.captions)
        if request.num_samples is not None:
            raise ValueError(f"--num-samples {request.num_samples}: a test list is used as a whole; leave one out")
    if not 2 <= num <= min(limits):
        raise ValueError(
            f"{num} sounds a row: the sets allow 2 to {min(limits)} (generated, baselines, then "
            f"{'half the reference, as no floor set is given' if halved else 'reference, then the floor'}: {limits})"
        )
    return num


def notes(request: EvaluationRequest, num: int, networks: list[str], judged_by: list[str]) -> list[str]:
    """What a reader has to know about this very table."""
    if request.test_list is None:
        lines = [f"No test list was given: N = {num} sounds, drawn with seed {request.seed} where there were more."]
    else:
        lines = [f"Test list: {request.test_list.name}, N = {num}; figures on other lists are other figures."]
    if "yamnet" in networks:
        lines.append(
            f"FD-YAMNet is the squared Frechet distance of YAMNet embeddings (mean over a sound) at N = {num}. It is "
            "not comparable with published FD (PANNs) or FAD (VGGish), nor with another N."
        )
    lines.append(
        "Intervals are of 95 %: bootstrap over sounds for means (KL, cosine, CLAP), a grouped jackknife over sounds "
        "for FD, FAD and IS of the whole set, Student's t over the ten splits for IS-CNN14. They are about this N, and "
        "do not remove the bias that a small N gives FD, FAD and IS."
    )
    if request.floor or request.test_list is None:
        lines.append(
            "Real sounds make the floor: others than the reference, against it, at the same N. Their inception score "
            "is their own; their text figures are those of the reference sounds, whose captions are known."
        )
    else:
        lines.append("No floor: it needs real sounds that are not in the test list (--floor).")
    if num < FEW_SOUNDS:
        lines.append(f"N = {num} is small: differences of a Frechet distance below tenths of the floor mean nothing.")
    if request.paired:
        lines.append(
            "Generated sounds and baselines share captions with the reference, other real sounds do not, so a row can "
            "come below the floor (codec reconstructions may: they are the reference sounds, coded)."
        )
    if not request.floor and request.test_list is None:
        lines.append(
            "No floor set was given, so the reference was halved: one half is the reference, the other the floor."
        )
    if not judged_by:
        lines.append("No text relevance: it needs a caption for every generated sound and a text encoder.")
    return lines


def _pick(sounds: Sounds, names: list[str], request: EvaluationRequest) -> list[str]:
    return names if request.paired else draw(list(distinct(sounds)), len(names), np.random.default_rng(request.seed))
