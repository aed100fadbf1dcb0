"""aiSFX, an embedder trained on sound effects libraries (Ma and Lerch, ISMIR 2022): a second scorer besides YAMNet.

Weights: ``aisfx/models/checkpoint.pth`` in the PyPI package aisfx 0.1.2 (CC BY 4.0, A. B. Ma and A. Lerch). The package
itself has outdated requirements and need not be installed. The front end is a reimplementation of theirs (Essentia's
mel bands).

Dimension key: S samples, M frames of 1024 samples, T blocks of 100 frames, every 50.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impact_pl._torchaudio import torchaudio
from impact_pl.checkpoint_io import DAMAGE, NUMPY
from impact_pl.errors import UserError, first_line
from impact_pl.evaluation.networks.interface import Network, NetworkFeatures, identify, load_strictly, mono

FFT, HOP, NUM_MELS = 2048, 1024, 96
BLOCK_FRAMES, BLOCK_HOP = 100, 50  # 2.3 s and half of it
LARGEST = 9.457798957824707  # of the log-mel values that it was trained on
WIDTHS = (64, 128, 256, 512)
FRONT_END = "htk96,power,hann2048/1024,log10(1e4x+1),100/50,v1"


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions, batch-normalised, then max pooling."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, pool: int) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return F.max_pool2d(F.relu(self.bn2(self.conv2(x))), pool)


class AisfxModel(nn.Module):
    """Embedding network with its original parameter names: log-mel blocks (T, 100, 96) -> (T, 512)."""

    def __init__(self) -> None:
        super().__init__()
        channels = (1, *WIDTHS)
        for i in range(4):
            self.add_module(f"conv_block{i + 1}", ConvBlock(channels[i], channels[i + 1]))

    def forward(self, blocks: Tensor) -> Tensor:
        x = blocks[:, None]
        for i, pool in enumerate((2, 2, 2, 1)):
            x = self.get_submodule(f"conv_block{i + 1}")(x, pool)
        return x.mean(dim=3).amax(dim=2)


class Aisfx(Network):
    """Embedding network aiSFX.

    Args:
        weights: The package's ``checkpoint.pth``; no code in it is executed.

    Raises:
        UserError: The file is missing, damaged, or from another network.
    """

    name = "aisfx"
    sample_rate = 44_100

    def __init__(self, weights: str | Path):
        path = Path(weights)
        self.model = AisfxModel().eval()
        load_strictly(self.model, read_weights(path), path)
        self.identity = identify(self.name, [path], FRONT_END)
        self._filters = mel_filters()

    @torch.inference_mode()
    def __call__(self, waveform: np.ndarray) -> NetworkFeatures:
        """Compute embeddings (T, 512) of a waveform (S,) at 44.1 kHz; the last block is zero-padded."""
        mel = log_mel(torch.from_numpy(mono(waveform)), self._filters)  # (M, 96)
        num_blocks = 1 + max(0, -(-(len(mel) - BLOCK_FRAMES) // BLOCK_HOP))
        mel = F.pad(mel, (0, 0, 0, (num_blocks - 1) * BLOCK_HOP + BLOCK_FRAMES - len(mel)))
        return NetworkFeatures(self.model(mel.unfold(0, BLOCK_FRAMES, BLOCK_HOP).transpose(1, 2)).numpy())


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the embedding network's weights from the package's checkpoint, a pair (state dict, names of data sets).

    Raises:
        UserError: It is missing, damaged, or has other content.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: take aisfx/models/checkpoint.pth out of the PyPI package aisfx 0.1.2")
    try:
        with torch.serialization.safe_globals([*NUMPY]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise UserError(f"{path}: not aisfx's checkpoint ({first_line(error)})") from error
    if not isinstance(content, tuple) or not content or not isinstance(content[0], dict):
        raise UserError(f"{path}: not aisfx's checkpoint, which is a pair of weights and data sets")
    prefix = "embedding_net."
    return {name.removeprefix(prefix): value for name, value in content[0].items() if name.startswith(prefix)}


def mel_filters() -> Tensor:
    """Compute HTK mel triangles (96, FFT / 2 + 1), each with weights that sum to 1."""
    filters = torchaudio.functional.melscale_fbanks(FFT // 2 + 1, 0.0, 22_050.0, NUM_MELS, 44_100).T
    return filters / filters.sum(dim=1, keepdim=True)


def log_mel(waveform: Tensor, filters: Tensor) -> Tensor:
    """Compute the log-mel (M, 96) of a waveform (S,), about 0 to 1."""
    window = torch.hann_window(FFT, periodic=False)
    spectrum = torch.stft(waveform, FFT, HOP, window=window, pad_mode="constant", return_complex=True)
    power = filters @ spectrum.abs().square()  # (96, M)
    return (1e4 * power + 1).log10().T / LARGEST
