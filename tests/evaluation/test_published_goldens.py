"""Figures that others published with the real weights. They need those weights: IMPACT_WEIGHTS names their folder.

Its files are listed in docs/parity.md, section "The weights folder".
"""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from impact_pl.evaluation import formulas
from impact_pl.evaluation.networks import cnn14, vggish

FOLDER = Path(os.environ.get("IMPACT_WEIGHTS", "IMPACT_WEIGHTS-is-not-set"))
SAMPLES, SCORES, STATISTICS = (FOLDER / "fadtk" / name for name in ("samples", "samples_FAD_scores.csv", "fma_pop.npz"))


def needs(*names: str):
    """Skip where one of the files is not there, and say which."""
    missing = [str(FOLDER / name) for name in names if not (FOLDER / name).exists()]
    reason = f"real weights: {', '.join(missing)} not there (set IMPACT_WEIGHTS to the folder that holds them)"
    return pytest.mark.skipif(bool(missing), reason=reason)


def sines(count: int, noise: float) -> list[np.ndarray]:
    """The test sounds of frechet-audio-distance: 6 s sines from 100 to 1000 Hz in 16 bits, with noise of its level."""
    generator = np.random.default_rng(0)
    time = np.linspace(0, 6, 6 * 16_000)
    sounds = []
    for frequency in np.linspace(100, 1000, count):
        sine = np.sin(2 * np.pi * time * frequency)
        sine = sine + noise * np.abs(sine).max() * generator.standard_normal(len(time))
        wrapped = (2**15 * sine).astype(np.int64).astype(np.int16)  # peaks beyond full scale change sign, as there
        sounds.append((wrapped / 2**15).astype(np.float32))
    return sounds


@needs(vggish.CHECKPOINT)
@pytest.mark.parametrize(("noise", "published"), [(1e-4, 12.4375), (1e-5, 4.7680)])
def test_fad_of_sines(noise, published):
    """frechet-audio-distance, test/test_examples.py, with its own tolerance (its noise has no seed)."""
    network = vggish.Vggish(FOLDER, "none")
    background, noisy = ([network(sound).embeddings for sound in sines(*case)] for case in ((10, 0.0), (5, noise)))
    assert formulas.frechet_audio_distance(background, noisy) == pytest.approx(published, abs=2.0)


@needs(cnn14.CHECKPOINT)
@pytest.mark.parametrize(("noise", "published"), [(1e-4, 4e-4), (1e-5, 1e-4)])
def test_cnn14_of_sines(noise, published):
    """Its "pann" figure strings all numbers of all embeddings together to one long list (docs/parity.md); so here."""
    model = cnn14.Cnn14(FOLDER).model
    with torch.inference_mode():  # without the mean's removal, which it does not do
        lists = [
            torch.cat([model(torch.from_numpy(sound)[None])[0][0] for sound in sines(*case)])[:, None].numpy()
            for case in ((10, 0.0), (5, noise))
        ]
    assert formulas.frechet_distance(*lists) == pytest.approx(published, abs=5e-4)


@needs(vggish.CHECKPOINT, "fadtk/samples", "fadtk/samples_FAD_scores.csv", "fadtk/fma_pop.npz")
def test_fad_of_fadtk_samples():
    """fadtk's sample clips against its FMA-Pop statistics: its table, within its own tolerance (5 % of the mean)."""
    with open(SCORES, newline="", encoding="utf-8") as file:
        published = {row["song_id"]: float(row["FAD_vggish_fma_pop"]) for row in csv.DictReader(file)}
    with np.load(STATISTICS, allow_pickle=False) as arrays:
        mean, covariance = arrays["vggish.mu"], arrays["vggish.cov"]
    network = vggish.Vggish(FOLDER, "none")
    windows = {f"samples/{path.stem}": fadtk_embeddings(network, path) for path in sorted(SAMPLES.iterdir())}
    windows["samples/all"] = np.concatenate(list(windows.values()))
    ours = {
        name: formulas.frechet_distance_of_moments(mean, covariance, found.mean(axis=0), np.cov(found.T))
        for name, found in windows.items()
    }
    assert ours.keys() == published.keys()
    assert ours == pytest.approx(published, abs=0.05 * np.mean(list(ours.values())))


def fadtk_embeddings(network: vggish.Vggish, path: Path) -> np.ndarray:
    """As fadtk prepares a file: mono, its long Kaiser filter, 16 bits, and embeddings kept in float16."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    kaiser = {"lowpass_filter_width": 64, "rolloff": 0.9475937167399596, "beta": 14.769656459379492}
    waveform = resample(
        torch.from_numpy(samples.mean(axis=1)), rate, 16_000, resampling_method="sinc_interp_kaiser", **kaiser
    )
    sixteen_bits = (waveform.clamp(-1, 1 - 2**-15) * 2**15).round() / 2**15
    return network(sixteen_bits.numpy()).embeddings.astype(np.float16).astype(np.float64)
