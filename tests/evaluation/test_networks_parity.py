"""Networks and metrics against the field's reference code: what it computed on random weights (golden/README.md).

The same weights are made here from the seed, written in the official file formats, and read like official ones.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from impact_pl.evaluation import formulas
from impact_pl.evaluation.networks import cnn14, vggish
from impact_pl.evaluation.networks.interface import as_audioldm_eval_reads
from tests.helpers.parity import cnn14_state, layer_outputs, signals, vggish_state, write_weights

GOLDEN = Path(__file__).parent.parent / "golden"
ARRAYS = load_file(GOLDEN / "networks_parity.safetensors")
RECORDED = json.loads((GOLDEN / "networks_parity.json").read_text())
RELATIVE = 1e-4  # of the largest value of an array, float32 through up to 14 layers


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("narrow")
    write_weights(folder, seed=0, width=4, hidden=32)
    return folder


def assert_close(ours, name: str, relative: float = RELATIVE) -> None:
    golden = ARRAYS[name].numpy()
    ours = np.asarray(ours)
    assert ours.shape == golden.shape, f"{name}: {ours.shape} is not {golden.shape}"
    difference = np.abs(ours - golden).max() / np.abs(golden).max()
    assert difference < relative, f"{name}: relative difference {difference:.2e}"


def sampled(output: torch.Tensor) -> torch.Tensor:
    """64 values of an output, evenly spread over it: what was recorded of each layer."""
    flat = output.flatten()
    return flat[torch.linspace(0, len(flat) - 1, min(64, len(flat)), dtype=torch.float64).round().long()]


def checksum(state: dict[str, torch.Tensor]) -> float:
    return float(sum(value.double().abs().sum() for value in state.values() if value.is_floating_point()))


def test_the_seed_still_makes_the_weights_that_were_recorded():
    """If this fails, numpy's generator has changed, and the other failures of this file mean nothing."""
    ours = {"cnn14.narrow": checksum(cnn14_state(0, 4)), "vggish.narrow": checksum(vggish_state(1, 4, 32))}
    ours["signals"] = float(sum(np.abs(sound, dtype=np.float64).sum() for sound in signals()))
    for name, value in ours.items():
        assert value == pytest.approx(RECORDED["checksums"][name], rel=1e-6), name


def test_cnn14_front_end_is_torchlibrosas(narrow):
    mel = cnn14.front_end()["logmel_extractor.melW"]
    assert_close(mel.sum(dim=0), "cnn14.melW.columns", 1e-5)
    assert_close(mel.sum(dim=1), "cnn14.melW.rows", 1e-5)
    model = cnn14.Cnn14(narrow).model
    for index, sound in enumerate(signals()):
        prepared = torch.from_numpy(as_audioldm_eval_reads(sound, cnn14.SAMPLE_RATE))[None]
        ours = model.log_mel(prepared)[0, 0, ::8].detach()
        assert_close(ours, f"cnn14.log_mel.{index}", 5e-4)  # of 100 dB: beside a pure tone, float32 rounding shows


def test_cnn14_equals_audioldm_eval_layer_by_layer(narrow):
    network = cnn14.Cnn14(narrow)
    for index, sound in enumerate(signals()):
        outputs = layer_outputs(network.model, lambda sound=sound: network(sound))
        names = [name for name in ARRAYS if name.startswith(f"cnn14.{index}.")]
        assert len(names) == 6 * 5 + 1  # two convolutions, two norms and the block's end, six times, and bn0
        for name in names:
            assert_close(sampled(outputs[name.removeprefix(f"cnn14.{index}.")]), name)


def test_vggish_equals_torchvggish_layer_by_layer(narrow):
    network = vggish.Vggish(narrow, "none")
    for index, sound in enumerate(signals()):
        assert_close(vggish.log_mel_windows(sound)[:, ::8], f"vggish.windows.{index}")
        outputs = layer_outputs(network.model, lambda sound=sound: network(sound))
        names = [name for name in ARRAYS if name.startswith(f"vggish.{index}.")]
        assert len(names) == 16  # six convolutions with ReLU and four poolings
        for name in names:
            assert_close(sampled(outputs[name.removeprefix(f"vggish.{index}.")]), name)


def compare_outputs(size: str, weights: Path) -> None:
    features = [cnn14.Cnn14(weights)(sound) for sound in signals()]
    assert_close(np.concatenate([each.embeddings for each in features]), f"cnn14.{size}.embeddings")
    assert_close(np.stack([each.logits for each in features]), f"cnn14.{size}.logits")
    network, released = vggish.Vggish(weights, "none"), vggish.Vggish(weights, "none", postprocess=True)
    for index, sound in enumerate(signals()):
        assert_close(network(sound).embeddings, f"vggish.{size}.{index}.embeddings")
        golden = ARRAYS[f"vggish.{size}.{index}.postprocessed"].numpy()
        steps = np.abs(released(sound).embeddings - golden)
        assert steps.max() <= 1
        assert (steps > 0).mean() < 0.02  # rounding may tip over


def test_outputs_equal_the_references(narrow):
    compare_outputs("narrow", narrow)


def test_vggish_prepared_as_in_audioldm_eval(narrow):
    network = vggish.Vggish(narrow)
    for index, sound in enumerate(signals()):
        assert_close(network(sound).embeddings, f"vggish.prepared.{index}.embeddings")


@pytest.mark.slow
def test_outputs_equal_the_references_at_full_size(tmp_path):
    write_weights(tmp_path, seed=0)
    assert checksum(cnn14_state(0)) == pytest.approx(RECORDED["checksums"]["cnn14.full"], rel=1e-6)
    compare_outputs("full", tmp_path)


def test_metrics_equal_the_references():
    """On made-up features, the same draws as when recorded."""
    generator = np.random.default_rng(7)

    def mixed(count: int) -> np.ndarray:
        return generator.standard_normal((count, 16)) @ generator.standard_normal((16, 16))

    real, fake = mixed(60), mixed(50) * 1.2 + 0.5
    truths = 3 * generator.standard_normal((47, 20))
    fakes = truths + generator.standard_normal((47, 20))
    mean, deviation = formulas.inception_score_in_splits(fakes)
    ours = {
        "frechet_distance": formulas.frechet_distance(real, fake),
        "fad": formulas.frechet_audio_distance([real[:7], real[7:]], [fake[:40], fake[40:]]),
        "av_benchmark_fd": formulas.frechet_distance(real, fake),
        "kullback_leibler_divergence_softmax": formulas.kl_softmax(truths, fakes).mean(),
        "kullback_leibler_divergence_sigmoid": formulas.kl_sigmoid(truths, fakes).mean(),
        "inception_score_mean": mean,
        "inception_score_std": deviation,
        "av_benchmark_kl_softmax": formulas.kl_softmax(truths, fakes, epsilon=0.0).mean(),
        "av_benchmark_kl_sigmoid": formulas.kl_sigmoid(truths, fakes, epsilon=0.0).mean(),
        "clap_score": np.diagonal(formulas.clap_score(truths[:40], fakes[:40])).mean(),
    }
    assert ours == pytest.approx(RECORDED["figures"], rel=1e-6)


def test_published_metrics_refuse_what_they_cannot_judge():
    few = np.zeros((9, 4))
    with pytest.raises(ValueError, match="in 10 splits needs at least as many sounds, got 9"):
        formulas.inception_score_in_splits(few)
    with pytest.raises(ValueError, match="got 0 and 1"):
        formulas.frechet_audio_distance([], [few])
    with pytest.raises(ValueError, match="equal shapes"):
        formulas.kl_softmax(few, few[:5])
    assert np.abs(formulas.kl_softmax(few, few)).max() < 1e-5
    assert formulas.kl_softmax(few, few, epsilon=0.0) == pytest.approx(np.zeros(9), abs=1e-12)
