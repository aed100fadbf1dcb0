"""Compare decoded sounds with their recordings: the figures of the codec's model card.

Network distances use dither at -60 dB on both sides. They depend on the clips and on N, so they are comparable within
one table only.

Dimension key: N sounds, S samples, K STFT bins, M frames.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from impact_pl.audio import SAMPLE_RATE, resample
from impact_pl.codecs.builtin import BuiltinCodec
from impact_pl.evaluation.formulas import embedding_cosine, frechet_distance, top1_agreement
from impact_pl.evaluation.networks.yamnet import YamNet, dither
from lab.cards.aisfx import Aisfx

STFT_SIZES = (512, 1024, 2048)  # the hop is a quarter of it
STFT_FLOOR = 1e-3  # -60 dB of full scale


class ReconstructionJudge:
    """Compare decoded sounds with the recordings, each (S_i,) at 16 kHz.

    Args:
        real: The N recordings.
        num_threads: Threads of the networks.
        aisfx: Checkpoint of the second network; None skips its figure.
    """

    def __init__(self, real: list[Tensor], num_threads: int = 1, aisfx: Path | None = None):
        self.real = real
        self._yamnet, self._aisfx = YamNet(num_threads), Aisfx(aisfx) if aisfx else None
        self._measure = BuiltinCodec()  # for its mel spectrogram, floored at -60 dB
        self._embeddings, self._scores = self._hear(real)

    def distances(self, sounds: list[Tensor]) -> dict[str, float]:
        """Compute Frechet distances of sounds (S_i,) to the recordings, by network."""
        return self._distances(self._hear(sounds)[0])

    def __call__(self, sounds: list[Tensor]) -> dict[str, float]:
        """Compute all figures; sound i (S_i,) is the reconstruction of recording i."""
        embeddings, scores = self._hear(sounds)
        pairs = list(zip(self.real, sounds, strict=True))
        return {
            **self._distances(embeddings),
            "cosine": float(embedding_cosine(self._embeddings["FD-YAMNet"], embeddings["FD-YAMNet"]).mean()),
            "top-1": float(top1_agreement(self._scores, scores).mean()),
            "mel L1": mean_difference([[self._measure.mel_patches(x[None]) for x in pair] for pair in pairs]),
            "STFT L1": float(
                np.mean([mean_difference([[log_stft(x, n_fft) for x in p] for p in pairs]) for n_fft in STFT_SIZES])
            ),
        }

    def _hear(self, sounds: list[Tensor]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """One embedding a sound (N, D), the mean over its patches, by figure; and YAMNet's class scores (N, 521)."""
        features = [self._yamnet(sound) for sound in sounds]
        embeddings = {"FD-YAMNet": np.stack([f.embeddings.mean(axis=0) for f in features])}
        if network := self._aisfx:
            waveforms = (dither(resample(sound, SAMPLE_RATE, network.sample_rate).numpy()) for sound in sounds)
            embeddings["FD-aisfx"] = np.stack([network(waveform).embeddings.mean(axis=0) for waveform in waveforms])
        return embeddings, np.stack([f.scores.mean(axis=0) for f in features])

    def _distances(self, embeddings: dict[str, np.ndarray]) -> dict[str, float]:
        return {name: frechet_distance(self._embeddings[name], value) for name, value in embeddings.items()}


def log_stft(waveform: Tensor, n_fft: int) -> Tensor:
    """Waveform (S,) -> log magnitudes (K, M), 0 for white noise of full scale, with a floor at -60 dB."""
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(waveform, n_fft, n_fft // 4, window=window, pad_mode="constant", return_complex=True)
    return (spectrum.abs() / window.square().sum().sqrt() + STFT_FLOOR).log()


def mean_difference(pairs: list[list[Tensor]]) -> float:
    """Mean absolute difference over all elements of all pairs."""
    return float(torch.cat([(a - b).abs().flatten() for a, b in pairs]).mean())
