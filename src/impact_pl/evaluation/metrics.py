"""Metrics of two folders in one call, with the same values as `impact evaluate`:

    from impact_pl.evaluation import metrics

    metrics.fd("generated", "reference")                                      # YAMNet, which needs no files
    metrics.fad("generated", "reference", network="vggish", weights="weights")
    metrics.clap_score("generated", weights="weights")

A result states the network and N: compare only values with the same network and N. Sounds are a folder or a manifest.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from impact_pl.data.lists import Sounds
from impact_pl.data.manifest import Record
from impact_pl.errors import UserError
from impact_pl.evaluation.cache import extract
from impact_pl.evaluation.estimates import SetFeatures
from impact_pl.evaluation.evaluate import size_warnings
from impact_pl.evaluation.intervals import Interval, bootstrap_interval
from impact_pl.evaluation.networks import Network, load_network, network_classes
from impact_pl.evaluation.request import EvaluationRequest, choose_sounds
from impact_pl.evaluation.sounds import find_captions, list_sounds, longest

logger = logging.getLogger(__name__)
Place = str | Path  # a set of sounds, or files

KEYS = {  # metric -> network -> column key in `impact evaluate`
    "fad": {"yamnet": "fd_yamnet", "vggish": "fad_vggish"},
    "fd": {"yamnet": "fd_yamnet", "cnn14": "fd_cnn14"},
    "kl": {"yamnet": "kl", "cnn14": "kl_cnn14", "passt": "kl_passt"},
    "isc": {"yamnet": "inception_score", "cnn14": "is_cnn14"},
}


MAX_SECONDS = 3600
PADDINGS = ("silence", "repeat")


@dataclass(frozen=True)
class Score:
    """Value of a metric."""

    value: float
    interval: Interval | None  # 95 % interval; None below 20 sounds
    metric: str  # column key in `impact evaluate`
    network: str  # identity of the network: name, and a checksum of weights and front end
    num_samples: int

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class Options:
    """Selection and preparation of sounds; the defaults are those of `impact evaluate`."""

    duration: float | None = None  # seconds; None: the longest generated sound (YAMNet), or complete sounds
    padding: str = "silence"  # padding of shorter sounds: silence, or repeat
    num_samples: int | None = None
    seed: int = 0
    cache_dir: str | Path | None = None

    def __post_init__(self) -> None:
        if self.duration is not None and not 0 < self.duration <= MAX_SECONDS:
            raise UserError(f"duration = {self.duration:g} s: choose above 0 and at most {MAX_SECONDS} s")
        if self.padding not in PADDINGS:
            raise UserError(f"padding = {self.padding!r}: choose {' or '.join(PADDINGS)}")
        if self.seed < 0:
            raise UserError(f"seed = {self.seed}: choose 0 or more")


def fad(
    generated: Place, reference: Place, network: str = "yamnet", weights: Place | None = None, **options: Any
) -> Score:
    """Compute the Frechet audio distance.

    VGGish's is the one in published tables. YAMNet's is FD-YAMNet, on one embedding per sound.

    Args:
        generated: The sounds to evaluate.
        reference: Real sounds. If they include the names of all generated sounds, only those are used.
        network: A key of ``KEYS["fad"]``.
        weights: Folder with the network's files (docs/parity.md).
        options: Fields of :class:`Options`.

    Raises:
        UserError: The network does not support this metric, a file is missing, or there are too few sounds.
    """
    return _compare("fad", generated, reference, network, weights, Options(**options))


def fd(
    generated: Place, reference: Place, network: str = "yamnet", weights: Place | None = None, **options: Any
) -> Score:
    """Compute the Frechet distance on one embedding per sound (CNN14's in published tables).

    For arguments see :func:`fad`.
    """
    return _compare("fd", generated, reference, network, weights, Options(**options))


def kl(
    generated: Place, reference: Place, network: str = "yamnet", weights: Place | None = None, **options: Any
) -> Score:
    """Compute the KL divergence between the classes of paired sounds (equal names). For arguments see :func:`fad`."""
    return _compare("kl", generated, reference, network, weights, Options(**options))


def isc(generated: Place, network: str = "yamnet", weights: Place | None = None, **options: Any) -> Score:
    """Compute the inception score: high if each sound has a clear class and all together cover many.

    See :func:`fad`.
    """
    return _compare("isc", generated, generated, network, weights, Options(**options))


def clap_score(
    generated: Place,
    captions: Place | Mapping[str, str] | None = None,
    weights: Place | None = None,
    **options: Any,
) -> Score:
    """Compute the mean cosine similarity between CLAP's embeddings of sounds and of their captions.

    Args:
        generated: The sounds.
        captions: Captions by sound name, or a file of them; None: generated.jsonl in the folder, or the manifest's own.
        weights: Folder with CLAP's files (docs/parity.md).
        options: Fields of :class:`Options`.

    Raises:
        UserError: A sound has no caption, or a file is missing.
    """
    chosen, sounds = Options(**options), list_sounds(generated)
    known = captions if isinstance(captions, Mapping) else find_captions(captions, generated, sounds)
    names = choose_sounds(_request(sounds, sounds, chosen))[0]
    mute = [name for name in names if name not in known]
    if mute:
        raise UserError(f"{generated}: {len(mute)} of {len(names)} sounds have no caption, first {mute[0]!r}")
    clap = load_network("clap", weights)
    scorer = clap.text_scorer([known[name] for name in names], None)
    assert scorer is not None
    cosines = np.diagonal(scorer(_hear(clap, [sounds[name] for name in names], chosen.duration, chosen)))
    interval = bootstrap_interval(cosines, np.random.default_rng(chosen.seed))
    return Score(float(cosines.mean()), interval, scorer.key, clap.identity, len(names))


def _compare(
    metric: str, generated: Place, reference: Place, network: str, weights: Place | None, options: Options
) -> Score:
    if network not in KEYS[metric]:
        raise UserError(f"the network {network!r} has no {metric}; choose one of {', '.join(KEYS[metric])}")
    (network_class,) = network_classes([network], weights)
    estimator = next(each for each in network_class.metrics if each.key == KEYS[metric][network])
    request = _request(list_sounds(generated), list_sounds(reference), options)
    request.paired = estimator.paired or request.generated.keys() <= request.reference.keys()
    names, reference_names, _ = choose_sounds(request, [estimator])
    for warning in size_warnings(request, len(names)):
        logger.warning(warning)
    loaded = load_network(network, weights)
    sounds = [request.generated[name] for name in names]
    duration = options.duration or (longest(sounds) if loaded.fits_duration else None)
    heard = _hear(loaded, sounds, duration, options)
    real = _hear(loaded, [request.reference[name] for name in reference_names], duration, options)
    value, interval = estimator.estimate(heard, real, np.random.default_rng(options.seed))
    return Score(value, interval, estimator.key, loaded.identity, len(names))


def _request(generated: Sounds, reference: Sounds, options: Options) -> EvaluationRequest:
    return EvaluationRequest(generated, reference, num_samples=options.num_samples, seed=options.seed)


def _hear(network: Network, records: list[Record], duration: float | None, options: Options) -> SetFeatures:
    return network.collect(extract(network, records, duration, options.cache_dir, padding=options.padding))
