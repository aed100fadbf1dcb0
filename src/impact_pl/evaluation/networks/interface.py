"""Interface of evaluation networks, with shared code for weight files, identities and waveforms.

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
    """Features of one sound, computed by a network."""

    embeddings: np.ndarray  # (T, D) float32
    logits: np.ndarray | None = None  # (K,) or (T, K) float32, before softmax or sigmoid


class Network(Protocol):
    """Embedding network with the metadata that evaluation needs."""

    name: str  # "yamnet", "cnn14", "vggish", "clap", "passt"
    identity: str  # name and 16 hex digits that change with weights, front end and version
    sample_rate: int  # of the input waveforms, in Hz
    checkpoint: str | None = None  # files in the folder of weights; None: the weights come with a package
    metrics: tuple[Metric, ...] = ()
    features_class: type = NetworkFeatures  # a dataclass of arrays, for the cache
    fits_duration: bool = False  # whether sounds are fitted to one duration first
    class_names: Sequence[str] = ()  # AudioSet classes, if SetFeatures.scores are filled
    text_metric: str | None = None  # key of the text metric that it supports, given captions
    note: str | None = None  # what readers of its metrics need to know

    def __init__(self, weights: str | Path) -> None: ...

    def __call__(self, waveform: np.ndarray) -> Any:
        """Compute the features of one sound: waveform (S,) float32 at ``sample_rate``, in [-1, 1] -> features_class."""
        ...

    def collect(self, features: list) -> SetFeatures:
        """Stack the features of sounds for the metrics."""
        logits = None
        if features[0].logits is not None:
            logits = np.stack([np.atleast_2d(each.logits).mean(axis=0) for each in features])
        return SetFeatures([each.embeddings for each in features], logits)

    def text_scorer(self, captions: list[str] | None, encoder: TextEncoder | None) -> TextScorer | None:
        """Create a scorer of sounds by their captions, or return None if the network has none.

        Args:
            captions: Captions of the sounds, in order; None: unknown.
            encoder: Sentence encoder, for networks without text.
        """
        return None


def weights_file(weights: str | Path, name: str, source: str) -> Path:
    """Find the file ``name`` in the folder ``weights``.

    Raises:
        UserError: It is missing; the message says where it is published.
    """
    path = Path(weights) / name
    if not path.exists():
        raise UserError(f"{path} is missing: put the file of that name there ({source})")
    return path


def load_strictly(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load ``state`` into ``module``, requiring equal names and shapes.

    Raises:
        UserError: Names or shapes differ; the message names the first difference.
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
    """Build an identity from a name and a hash of the files and of ``front_end``, which describes preprocessing."""
    return f"{name}-{files_identity(front_end, paths)}"


def mono(waveform: ArrayLike | Tensor) -> np.ndarray:
    """Check a waveform and return it as float32 (S,).

    Raises:
        UserError: It has other axes, no samples, or NaN or infinite ones.
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
