"""Compare decoded sounds with their recordings: the figures of the codec's model card.

Network distances use dither at -60 dB on both sides. They depend on the clips and on N, so they are comparable within
one table only.

Dimension key: N sounds, S samples, K STFT bins, M frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from impact_pl.audio import SAMPLE_RATE, resample
from impact_pl.codecs.builtin import BuiltinCodec
from impact_pl.evaluation.formulas import embedding_cosine, frechet_distance, top1_agreement
from impact_pl.evaluation.labels import heard_labels
from impact_pl.evaluation.networks.yamnet import YamNet, dither
from lab.cards.aisfx import Aisfx

STFT_SIZES = (512, 1024, 2048)  # the hop is a quarter of it
STFT_FLOOR = 1e-3  # -60 dB of full scale


@dataclass
class Heard:
    """What the networks say of N sounds: embeddings (N, D) by metric, means over their patches, and YAMNet's scores."""

    embeddings: dict[str, np.ndarray]
    scores: np.ndarray  # (N, 521)


class Scorers:
    """YAMNet and, with the path of its checkpoint, aiSFX; both take sounds (S_i,) at 16 kHz."""

    def __init__(self, num_threads: int = 1, aisfx: Path | None = None) -> None:
        self.yamnet, self.aisfx = YamNet(num_threads), Aisfx(aisfx) if aisfx else None

    def __call__(self, sounds: list[Tensor]) -> Heard:
        features = [self.yamnet(sound) for sound in sounds]
        embeddings = {"FD-YAMNet": np.stack([f.embeddings.mean(axis=0) for f in features])}
        if network := self.aisfx:
            waveforms = (dither(resample(sound, SAMPLE_RATE, network.sample_rate).numpy()) for sound in sounds)
            embeddings["FD-aisfx"] = np.stack([network(waveform).embeddings.mean(axis=0) for waveform in waveforms])
        return Heard(embeddings, np.stack([f.scores.mean(axis=0) for f in features]))


class ReconstructionJudge:
    """Compare decoded sounds with the recordings ``real``, each (S_i,) at 16 kHz.

    ``labels`` are their classes in ESC-10, if they have such.
    """

    def __init__(
        self, real: list[Tensor], num_threads: int = 1, aisfx: Path | None = None, labels: Sequence[str] = ()
    ) -> None:
        self.real, self.labels, self.scorers = real, labels, Scorers(num_threads, aisfx)
        self._measure = BuiltinCodec()  # for its mel spectrogram, floored at -60 dB
        self.heard = self.scorers(real)

    def distances(self, heard: Heard) -> dict[str, float]:
        """Compute Frechet distances of sounds to the recordings, by network."""
        return {name: frechet_distance(self.heard.embeddings[name], x) for name, x in heard.embeddings.items()}

    def accuracy(self, heard: Heard) -> dict[str, float]:
        """Compute YAMNet's class accuracy of sounds with these labels; nothing without labels."""
        if not self.labels:
            return {}
        said = heard_labels(heard.scores, self.scorers.yamnet.class_names)
        return {"accuracy": float(np.mean([a == b for a, b in zip(self.labels, said, strict=True)]))}

    def __call__(self, sounds: list[Tensor]) -> dict[str, float]:
        """Compute all figures; sound i (S_i,) is the reconstruction of recording i."""
        heard, pairs = self.scorers(sounds), list(zip(self.real, sounds, strict=True))
        embeddings = (each.embeddings["FD-YAMNet"] for each in (self.heard, heard))
        stft = [mean_difference([[log_stft(x, n_fft) for x in pair] for pair in pairs]) for n_fft in STFT_SIZES]
        return {
            **self.distances(heard),
            **self.accuracy(heard),
            "cosine": float(embedding_cosine(*embeddings).mean()),
            "top-1": float(top1_agreement(self.heard.scores, heard.scores).mean()),
            "mel L1": mean_difference([[self._measure.mel_patches(x[None]) for x in pair] for pair in pairs]),
            "STFT L1": float(np.mean(stft)),
        }


def log_stft(waveform: Tensor, n_fft: int) -> Tensor:
    """Waveform (S,) -> log magnitudes (K, M), 0 for white noise of full scale, with a floor at -60 dB."""
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(waveform, n_fft, n_fft // 4, window=window, pad_mode="constant", return_complex=True)
    return (spectrum.abs() / window.square().sum().sqrt() + STFT_FLOOR).log()


def mean_difference(pairs: list[list[Tensor]]) -> float:
    """Mean absolute difference over all elements of all pairs."""
    return float(torch.cat([(a - b).abs().flatten() for a, b in pairs]).mean())
