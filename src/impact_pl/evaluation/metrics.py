"""Metrics of two folders in one call, with the same values as `impact evaluate` gives:

    from impact_pl.evaluation import metrics

    metrics.fd("generated", "reference")                                      # YAMNet, which needs no files
    metrics.fad("generated", "reference", network="vggish", weights="weights")
    metrics.clap_score("generated", weights="weights")

A result names the network and N: compare only values of the same network and N. Sounds are a folder, or a manifest.
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
Place = str | Path  # of a set of sounds, or of files

KEYS = {  # metric -> network -> key of the column in `impact evaluate`
    "fad": {"yamnet": "fd_yamnet", "vggish": "fad_vggish"},
    "fd": {"yamnet": "fd_yamnet", "cnn14": "fd_cnn14"},
    "kl": {"yamnet": "kl", "cnn14": "kl_cnn14", "passt": "kl_passt"},
    "isc": {"yamnet": "inception_score", "cnn14": "is_cnn14"},
}


@dataclass(frozen=True)
class Score:
    """The value of a metric."""

    value: float
    interval: Interval | None  # of 95 %; None below 20 sounds
    metric: str  # key of the column in `impact evaluate`
    network: str  # its identity: name, and a checksum of weights and front end
    num_samples: int

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class Options:
    """How sounds are chosen and heard; the defaults are those of `impact evaluate`."""

    duration: float | None = None  # seconds; None: the longest generated sound for YAMNet, whole sounds for others
    padding: str = "silence"  # after shorter sounds: silence, or repeat
    num_samples: int | None = None
    seed: int = 0
    cache_dir: str | Path | None = None


def fad(
    generated: Place, reference: Place, network: str = "yamnet", weights: Place | None = None, **options: Any
) -> Score:
    """Frechet audio distance: VGGish's is that of published tables; YAMNet's is FD-YAMNet, on one embedding per sound.

    Args:
        generated: the sounds to judge.
        reference: real sounds. If they have the names of all generated ones, these are compared.
        network: a key of ``KEYS["fad"]``.
        weights: the folder with the network's files (docs/parity.md).
        options: fields of :class:`Options`.

    Raises:
        UserError: a network that has no such metric, a missing file, or too few sounds.
    """
    return _compare("fad", generated, reference, network, weights, Options(**options))


def fd(
    generated: Place, reference: Place, network: str = "yamnet", weights: Place | None = None, **options: Any
) -> Score:
    """Frechet distance on one embedding per sound; CNN14's in published tables. Arguments as of :func:`fad`."""
    return _compare("fd", generated, reference, network, weights, Options(**options))


def kl(
    generated: Place, reference: Place, network: str = "yamnet", weights: Place | None = None, **options: Any
) -> Score:
    """KL divergence between the classes heard in pairs of sounds of one name. Arguments as of :func:`fad`."""
    return _compare("kl", generated, reference, network, weights, Options(**options))


def isc(generated: Place, network: str = "yamnet", weights: Place | None = None, **options: Any) -> Score:
    """Inception score: sounds of one clear class each, of many classes together, score high. See :func:`fad`."""
    return _compare("isc", generated, generated, network, weights, Options(**options))


def clap_score(
    generated: Place,
    captions: Place | Mapping[str, str] | None = None,
    weights: Place | None = None,
    **options: Any,
) -> Score:
    """Mean cosine of CLAP's embeddings of sounds and of their captions.

    Args:
        generated: the sounds.
        captions: by sound name, or a file of them; None: generated.jsonl in the folder, or the manifest's own.
        weights: the folder with CLAP's files (docs/parity.md).
        options: fields of :class:`Options`.

    Raises:
        UserError: a sound without a caption, or a missing file.
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
