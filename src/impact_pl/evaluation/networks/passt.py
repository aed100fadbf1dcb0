"""PaSST, a second network for KL (used by AudioGen and others), through its package hear21passt.

Dimension key: S samples, D = 768 dimensions, K = 527 classes.
"""

import contextlib
import io
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from impact_pl.checkpoint_io import read_checkpoint, state_dict
from impact_pl.errors import UserError
from impact_pl.evaluation import formulas
from impact_pl.evaluation.estimates import pair_metric
from impact_pl.evaluation.networks.interface import (
    Network,
    NetworkFeatures,
    identify,
    load_strictly,
    mono,
    weights_file,
)

SAMPLE_RATE = 32_000
NUM_SAMPLES = 10 * SAMPLE_RATE  # every sound is cut or zero-padded to 10 s (audioldm_eval, av-benchmark)
NUM_CLASSES = 527
ARCHITECTURE = "passt_s_swa_p16_128_ap476"
CHECKPOINT = "passt-s-f128-p16-s10-ap.476-swa.pt"
SOURCE = "github.com/kkoutini/PaSST, release v0.0.1-audioset"
_FRONT_END = f"mean removed,{NUM_SAMPLES},v1"


class Passt(Network):
    """PaSST-S with the weights ``weights/passt-s-f128-p16-s10-ap.476-swa.pt``.

    Raises:
        UserError: The package hear21passt or the file is missing.
    """

    name = "passt"
    sample_rate = SAMPLE_RATE
    checkpoint = CHECKPOINT
    metrics = (pair_metric("kl_passt", lambda a, b: formulas.kl_softmax(a.logits, b.logits)),)

    def __init__(self, weights: str | Path):
        try:
            from hear21passt.models.passt import get_model
            from hear21passt.models.preprocess import AugmentMelSTFT
        except ImportError as error:
            raise UserError("the network passt needs a package: pip install hear21passt==0.0.26") from error
        path = weights_file(weights, CHECKPOINT, SOURCE)
        with contextlib.redirect_stdout(io.StringIO()):  # the package prints the complete network
            self.model = get_model(arch=ARCHITECTURE, pretrained=False).eval()
            self._mel = AugmentMelSTFT(fmin_aug_range=10, fmax_aug_range=2000).eval()  # 128 bins, as in get_basic_model
        load_strictly(self.model, state_dict(read_checkpoint(path), path), path)
        self.identity = identify(self.name, [path], _FRONT_END)

    @torch.inference_mode()
    def __call__(self, waveform: np.ndarray) -> NetworkFeatures:
        """Compute embeddings (1, 768) and logits (527,) of a waveform (S,) at 32 kHz."""
        sound = torch.from_numpy(mono(waveform))
        sound = (sound - sound.mean())[:NUM_SAMPLES]
        mel = self._mel(functional.pad(sound, (0, NUM_SAMPLES - len(sound)))[None])  # (1, 128, 1000)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints shapes at the first call
            logits, embeddings = self.model(mel[:, None])
        return NetworkFeatures(embeddings.numpy(), logits[0].numpy())
