"""The interface of evaluation networks, and what they share: weight files, identity, waveforms.

Dimension key: S samples, T embeddings of a sound (1, or one per window), D dimensions, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor, nn

from impact_pl.errors import UserError
from impact_pl.evaluation.estimates import Metric, SetFeatures, TextScorer
from impact_pl.identity import files_identity
from impact_pl.text_encoders.base import TextEncoder

SHORTEST_SECONDS = 2.0  # audioldm_eval pads every sound to 32,000 samples


@dataclass
class NetworkFeatures:
    """What a network says about one sound."""

    embeddings: np.ndarray  # (T, D) float32
    logits: np.ndarray | None = None  # (K,) or (T, K) float32, before softmax or sigmoid


class Network(Protocol):
    """An embedding network, with everything that evaluation has to know about it."""

    name: str  # "yamnet", "cnn14", "vggish", "clap", "passt"
    identity: str  # name and 16 hex digits that change with weights, front end and version
    sample_rate: int  # of the waveforms it takes, in Hz
    checkpoint: str | None = None  # what it reads of the folder of weights; None: its weights come with a package
    metrics: tuple[Metric, ...] = ()
    features_class: type = NetworkFeatures  # a dataclass of arrays, which the cache can keep
    fits_duration: bool = False  # whether sounds are fitted to one length first, or heard whole
    class_names: Sequence[str] = ()  # of AudioSet, if SetFeatures.scores are filled
    text_metric: str | None = None  # key of the text metric that it can compute, given captions
    note: str | None = None  # what a reader of its metrics has to know

    def __init__(self, weights: str | Path) -> None: ...

    def __call__(self, waveform: np.ndarray) -> Any:
        """Compute the features of one sound: waveform (S,) float32 at ``sample_rate``, in [-1, 1] -> features_class."""
        ...

    def collect(self, features: list) -> SetFeatures:
        """Stack the features of sounds into what metrics take."""
        logits = None
        if features[0].logits is not None:
            logits = np.stack([np.atleast_2d(each.logits).mean(axis=0) for each in features])
        return SetFeatures([each.embeddings for each in features], logits)

    def text_scorer(self, captions: list[str] | None, encoder: TextEncoder | None) -> TextScorer | None:
        """Make the scorer of sounds by their captions; None if there is none.

        Args:
            captions: of the sounds, in their order; None: not known.
            encoder: of sentences, for networks that know no text.
        """
        return None


def weights_file(weights: str | Path, name: str, source: str) -> Path:
    """Find the file ``name`` in the folder ``weights``.

    Raises:
        UserError: it is not there; the message says where it is published.
    """
    path = Path(weights) / name
    if not path.exists():
        raise UserError(f"{path} is missing: put the file of that name there ({source})")
    return path


def load_strictly(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load ``state`` into ``module``: every name and every shape must be the file's.

    Raises:
        UserError: names or shapes differ; the message names the first of them.
    """
    own = module.state_dict()
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [name for name in own if name in state and own[name].shape != state[name].shape]
    if wrong:
        sizes = [tuple(each[wrong[0]].shape) if wrong[0] in each else "missing" for each in (own, state)]
        raise UserError(
            f"{path}: another network's checkpoint: {len(wrong)} entries differ, first {wrong[0]} "
            f"(expected {sizes[0]}, the file has {sizes[1]})"
        )
    module.load_state_dict(state)


def identify(name: str, paths: Sequence[Path], front_end: str) -> str:
    """Name a network by 16 hex digits of its files and of ``front_end``, which describes what precedes them."""
    return f"{name}-{files_identity(front_end, paths)}"


def mono(waveform: ArrayLike | Tensor) -> np.ndarray:
    """Check a waveform and return it as float32 (S,).

    Raises:
        UserError: it has other axes, no samples, or NaN or infinite ones.
    """
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim != 1 or waveform.size == 0:
        raise UserError(f"expected a mono waveform (S,) with S > 0, got shape {waveform.shape}")
    if not np.isfinite(waveform).all():
        raise UserError("the waveform holds NaN or infinite samples")
    return waveform


def as_audioldm_eval_reads(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Remove the mean and zero-pad to two seconds, as audioldm_eval does to every file, real or generated."""
    waveform = waveform - waveform.mean()
    return np.pad(waveform, (0, max(0, round(SHORTEST_SECONDS * sample_rate) - len(waveform))))
