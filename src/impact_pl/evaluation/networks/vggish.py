"""VGGish, the network of the Frechet audio distance (IMPACT Sec. 4), with torchvggish's weights.

Both audioldm_eval and frechet-audio-distance take the 128 values before the last ReLU, without the PCA of AudioSet's
released embeddings. They differ in their preprocessing of the waveform (``preparation``).

Dimension key: S samples, T windows of 0.96 s, M frames of 10 ms.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from impact_pl.checkpoint_io import read_checkpoint, state_dict
from impact_pl.errors import UserError
from impact_pl.evaluation.estimates import frechet, set_metric
from impact_pl.evaluation.networks.interface import (
    Network,
    NetworkFeatures,
    as_audioldm_eval_reads,
    identify,
    load_strictly,
    mono,
    weights_file,
)
from impact_pl.evaluation.networks.yamnet import F_MAX, F_MIN, FFT, HOP, NUM_MELS, SAMPLE_RATE, WINDOW, mel_filters

LOG_OFFSET = 0.01  # YAMNet uses 0.001; the front ends are otherwise the same
WINDOW_FRAMES = 96  # 0.96 s; windows do not overlap
CHECKPOINT, PCA = "vggish-10086976.pth", "vggish_pca_params-970ea276.pth"
SOURCE = "github.com/harritaylor/torchvggish, release v0.1"
PREPARATIONS = ("audioldm_eval", "none")
PCA_RANGE = 2.0  # postprocessed embeddings are clipped to +-2, then quantised to 255 steps


class VggishModel(nn.Module):
    """VGGish with torchvggish's parameter names: (T, 1, 96, 64) -> (T, 128), before the last ReLU.

    Args:
        width: Channels of the first convolution (official: 64).
        hidden: Size of the two hidden layers (official: 4096).
        dim: Size of the embedding (official: 128).
    """

    def __init__(self, width: int = 64, hidden: int = 4096, dim: int = 128):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for factor in (1, "pool", 2, "pool", 4, 4, "pool", 8, 8, "pool"):
            if isinstance(factor, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width * factor, 3, padding=1), nn.ReLU()]
                channels = width * factor
        self.features = nn.Sequential(*layers)  # (T, 8W, 6, 4)
        sizes = nn.Linear(channels * 6 * 4, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        self.embeddings = nn.Sequential(*sizes, nn.Linear(hidden, dim))

    def forward(self, windows: Tensor) -> Tensor:
        features = self.features(windows).permute(0, 2, 3, 1)  # (T, 6, 4, 8W): channels last, as in TensorFlow
        return self.embeddings(features.flatten(1))


class Vggish(Network):
    """VGGish with the weights ``weights/vggish-10086976.pth``.

    Args:
        weights: The folder.
        preparation: "audioldm_eval" removes the mean and pads to 2 s, as in the published FAD of text-to-audio papers.
            "none" matches frechet-audio-distance, where a sound must last 0.975 s.
        postprocess: Apply PCA and 8-bit quantisation as in AudioSet's released embeddings
            (``vggish_pca_params-970ea276.pth``).

    Raises:
        UserError: The preparation is unknown, or a file is missing, damaged, or from another network.

    Note:
        torchvggish resamples with resampy, this project with ``impact_pl.audio.resample``, before this class is called.
        There is no difference for files at 16 kHz, such as generated ones. For others see docs/parity.md.
    """

    name = "vggish"
    sample_rate = SAMPLE_RATE
    checkpoint = CHECKPOINT
    metrics = (set_metric("fad_vggish", frechet),)

    def __init__(self, weights: str | Path, preparation: str = "audioldm_eval", postprocess: bool = False):
        if preparation not in PREPARATIONS:
            raise UserError(f"unknown preparation {preparation!r}; choose one of {', '.join(PREPARATIONS)}")
        path = weights_file(weights, CHECKPOINT, SOURCE)
        state = state_dict(read_checkpoint(path), path)
        biases = ("features.0.bias", "embeddings.0.bias", "embeddings.4.bias")
        if not state.keys() >= set(biases):
            raise UserError(f"{path}: not a checkpoint of torchvggish (no {', '.join(biases)})")
        sizes = [len(state[name]) for name in biases]
        self.model = VggishModel(*sizes).eval()
        load_strictly(self.model, state, path)
        files = [path]
        self._pca: tuple[Tensor, Tensor] | None = None
        if postprocess:
            files.append(weights_file(weights, PCA, SOURCE))
            self._pca = read_pca(files[-1])
        self.preparation = preparation
        front_end = f"htk{NUM_MELS},{F_MIN},{F_MAX},{LOG_OFFSET},{WINDOW},{HOP},{preparation},pca {postprocess},v1"
        self.identity = identify(self.name, files, front_end)

    @torch.inference_mode()
    def __call__(self, waveform: np.ndarray) -> NetworkFeatures:
        """Compute embeddings (T, 128) of a waveform (S,) at 16 kHz, one per complete window of 0.96 s."""
        waveform = mono(waveform)
        if self.preparation == "audioldm_eval":
            waveform = as_audioldm_eval_reads(waveform, SAMPLE_RATE)
        embeddings = self.model(torch.from_numpy(log_mel_windows(waveform))[:, None])
        if self._pca is not None:
            embeddings = postprocess(embeddings, *self._pca)
        return NetworkFeatures(embeddings.numpy())


def log_mel_windows(waveform: np.ndarray) -> np.ndarray:
    """Compute VGGish's input (T, 96, 64) float32 from a waveform (S,), in float64 as vggish_input.py does.

    It is the magnitude of the periodic-Hann STFT without padding, HTK mel triangles, log(mel + 0.01).

    Raises:
        UserError: The waveform is shorter than one window.
    """
    shortest = WINDOW + HOP * (WINDOW_FRAMES - 1)
    if len(waveform) < shortest:
        raise UserError(f"VGGish needs {shortest} samples ({shortest / SAMPLE_RATE:g} s), got {len(waveform)}")
    frames = np.lib.stride_tricks.sliding_window_view(waveform.astype(np.float64), WINDOW)[::HOP]  # (M, 400)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    log_mel = np.log(np.abs(np.fft.rfft(frames * hann, FFT)) @ mel_filters() + LOG_OFFSET)  # (M, 64)
    whole = len(log_mel) // WINDOW_FRAMES * WINDOW_FRAMES
    return log_mel[:whole].reshape(-1, WINDOW_FRAMES, NUM_MELS).astype(np.float32)


def read_pca(path: Path) -> tuple[Tensor, Tensor]:
    """Read the PCA's vectors (128, 128) and means (128, 1), stored as numpy arrays in the official file.

    Raises:
        UserError: The file is damaged or has other content.
    """
    state = read_checkpoint(path)
    arrays = {name for name, value in state.items() if isinstance(value, np.ndarray | Tensor)}
    if not arrays == state.keys() == {"pca_eigen_vectors", "pca_means"}:
        raise UserError(f"{path}: not torchvggish's PCA (expected pca_eigen_vectors and pca_means)")
    vectors, means = (torch.as_tensor(state[name]).float() for name in ("pca_eigen_vectors", "pca_means"))
    return vectors, means.reshape(-1, 1)


def postprocess(embeddings: Tensor, vectors: Tensor, means: Tensor) -> Tensor:
    """Postprocess embeddings (T, 128) as in AudioSet's release: PCA whitening, clipping to +-2, 8-bit quantisation."""
    whitened = (vectors @ (embeddings.T - means)).T
    return ((whitened.clamp(-PCA_RANGE, PCA_RANGE) + PCA_RANGE) * (255.0 / (2 * PCA_RANGE))).round()
