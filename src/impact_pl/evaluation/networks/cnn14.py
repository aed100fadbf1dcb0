"""PANNs CNN14 at 16 kHz: the network of FD, KL and IS in text-to-audio papers (IMPACT Sec. 4), as in audioldm_eval.

Parameter names match the official checkpoint (Kong et al., *PANNs*, arXiv 1912.10211). Its front end, a Fourier basis
and a mel matrix, is part of the file and used unchanged.

Dimension key: B sounds, S samples, M frames of 10 ms, F = 64 mel bins, W width of the first block, K classes.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from impact_pl._torchaudio import torchaudio
from impact_pl.checkpoint_io import read_checkpoint, state_dict
from impact_pl.errors import UserError
from impact_pl.evaluation import formulas
from impact_pl.evaluation.estimates import Metric, frechet, inception_in_splits, pair_metric, set_metric
from impact_pl.evaluation.networks.interface import (
    Network,
    NetworkFeatures,
    as_audioldm_eval_reads,
    identify,
    load_strictly,
    mono,
    weights_file,
)

SAMPLE_RATE = 16_000
FFT, HOP, NUM_MELS, F_MIN, F_MAX, POWER_FLOOR = 512, 160, 64, 50.0, 8000.0, 1e-10
BASES = ("conv_real", "conv_imag")
CHECKPOINT = "Cnn14_16k_mAP=0.438.pth"
SOURCE = "zenodo.org, record 3987831"
_FRONT_END = f"stft{FFT},{HOP},dB{POWER_FLOOR},mean removed,2 s at least,v1"


class Cnn14Model(nn.Module):
    """CNN14: log-mel, six blocks of two 3x3 convolutions, mean over frequency, max plus mean over time, two layers.

    Args:
        width: Channels of the first block, doubled by each of the following five (official: 64).
        num_classes: K (official: 527).
    """

    def __init__(self, width: int = 64, num_classes: int = 527):
        super().__init__()
        bases = {name: nn.Conv1d(1, FFT // 2 + 1, FFT, HOP, bias=False) for name in BASES}
        self.spectrogram_extractor = nn.ModuleDict({"stft": nn.ModuleDict(bases)})
        self.logmel_extractor = nn.ParameterDict({"melW": torch.zeros(FFT // 2 + 1, NUM_MELS)})
        self.bn0 = nn.BatchNorm2d(NUM_MELS)
        channels = [1, *(width * 2**block for block in range(6))]
        for block in range(6):
            pool = 2 if block < 5 else 1
            self.add_module(f"conv_block{block + 1}", ConvBlock(channels[block], channels[block + 1], pool))
        self.fc1 = nn.Linear(channels[-1], channels[-1])
        self.fc_audioset = nn.Linear(channels[-1], num_classes)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Compute the power in mel bins (B, 1, M, F) of a waveform (B, S), in dB, at least -100."""
        padded = functional.pad(waveform[:, None], (FFT // 2, FFT // 2), mode="reflect")  # (B, 1, S + FFT)
        real, imaginary = (self.get_submodule(f"spectrogram_extractor.stft.{name}")(padded) for name in BASES)
        power = real.square() + imaginary.square()  # (B, FFT/2 + 1, M)
        mel = power.transpose(1, 2) @ self.logmel_extractor["melW"]  # (B, M, F)
        return 10.0 * mel.clamp(min=POWER_FLOOR).log10()[:, None]

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Compute embeddings (B, 32W), audioldm_eval's "2048", and logits (B, K) of waveforms (B, S)."""
        x = self.bn0(self.log_mel(waveform).transpose(1, 3)).transpose(1, 3)  # (B, 1, M, F)
        for block in range(1, 7):
            x = self.get_submodule(f"conv_block{block}")(x)  # (B, W 2^(block-1), M/2^block, F/2^block)
        x = x.mean(dim=3)  # (B, 32W, M/32)
        embeddings = self.fc1(x.amax(dim=2) + x.mean(dim=2)).relu()
        return embeddings, self.fc_audioset(embeddings)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and ReLU, and average pooling: (B, C1, M, F) -> (B, C2, M/pool, F/pool)."""

    def __init__(self, in_channels: int, out_channels: int, pool: int):
        super().__init__()
        self.pool = pool
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return functional.avg_pool2d(x, self.pool)


class Cnn14(Network):
    """CNN14 with the weights ``weights/Cnn14_16k_mAP=0.438.pth``. Width and classes are inferred from the file.

    Raises:
        UserError: The file is missing, damaged, from another network, or has another front end.
    """

    name = "cnn14"
    sample_rate = SAMPLE_RATE
    checkpoint = CHECKPOINT
    metrics = (
        set_metric("fd_cnn14", frechet),
        Metric("is_cnn14", inception_in_splits, paired=False, min_sounds=formulas.NUM_SPLITS),
        pair_metric("kl_cnn14", lambda a, b: formulas.kl_softmax(a.logits, b.logits)),
        pair_metric("kl_sigmoid_cnn14", lambda a, b: formulas.kl_sigmoid(a.logits, b.logits)),
    )

    def __init__(self, weights: str | Path):
        path = weights_file(weights, CHECKPOINT, SOURCE)
        state = state_dict(read_checkpoint(path).get("model", {}), path)
        if not {"fc_audioset.bias", "conv_block1.conv1.weight"} <= state.keys():
            raise UserError(f"{path}: not a checkpoint of PANNs CNN14 (no weights under the key 'model')")
        self.model = Cnn14Model(state["conv_block1.conv1.weight"].shape[0], len(state["fc_audioset.bias"])).eval()
        load_strictly(self.model, state, path)
        for name, expected in front_end().items():
            if not torch.allclose(state[name], expected, atol=1e-4):
                raise UserError(f"{path}: {name} is not that of CNN14 at {SAMPLE_RATE} Hz")
        self.identity = identify(self.name, [path], _FRONT_END)

    @torch.inference_mode()
    def __call__(self, waveform: np.ndarray) -> NetworkFeatures:
        """Compute embeddings (1, 2048) and logits (527,) of a waveform (S,) at 16 kHz."""
        waveform = as_audioldm_eval_reads(mono(waveform), SAMPLE_RATE)
        embeddings, logits = self.model(torch.from_numpy(waveform)[None])
        return NetworkFeatures(embeddings.numpy(), logits[0].numpy())


def front_end() -> dict[str, Tensor]:
    """Compute the front end's checkpoint entries: Hann-windowed Fourier basis, Slaney mel filters."""
    time = torch.arange(FFT, dtype=torch.float64)
    angle = 2 * torch.pi * torch.arange(FFT // 2 + 1, dtype=torch.float64)[:, None] * time / FFT
    hann = torch.hann_window(FFT, dtype=torch.float64)
    mel = torchaudio.functional.melscale_fbanks(
        FFT // 2 + 1, F_MIN, F_MAX, NUM_MELS, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return {
        "spectrogram_extractor.stft.conv_real.weight": (angle.cos() * hann).float()[:, None],  # (FFT/2 + 1, 1, FFT)
        "spectrogram_extractor.stft.conv_imag.weight": (-angle.sin() * hann).float()[:, None],
        "logmel_extractor.melW": mel,  # (FFT/2 + 1, F)
    }
