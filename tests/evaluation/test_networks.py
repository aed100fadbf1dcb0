"""Evaluation networks from files in the official formats (random and narrow): what they give, and what they refuse."""

import importlib.util
import sys

import numpy as np
import pytest
import torch

from impact_pl.evaluation.networks import NETWORKS, clap, cnn14, load_network, passt, vggish
from tests.helpers.parity import cnn14_state, signals, write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_weights(folder, seed=0, width=4, hidden=32)
    return folder


@pytest.fixture(scope="module", params=["cnn14", "vggish", "clap"])
def network(request, weights):
    return load_network(request.param, weights)


def sound(network, seconds: float) -> np.ndarray:
    time = np.arange(round(seconds * network.sample_rate)) / network.sample_rate
    noise = np.random.default_rng(1).standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * 440 * time) + 0.1 * noise).astype(np.float32)


def test_features_have_the_promised_shapes(network):
    features = network(sound(network, 3.0))
    shapes = {"cnn14": ((1, 128), (527,)), "vggish": ((3, 128), None), "clap": ((1, 24), None)}
    logits = None if features.logits is None else features.logits.shape
    assert (features.embeddings.shape, logits) == shapes[network.name]
    assert features.embeddings.dtype == np.float32
    assert np.isfinite(features.embeddings).all()


def test_features_are_a_function_of_the_sound(network):
    """A long sound too, which CLAP's front end would crop at random."""
    waveform = sound(network, 11.0)
    state = np.random.get_state()[1].copy()
    first, again = network(waveform), network(waveform.copy())
    assert np.array_equal(first.embeddings, again.embeddings)
    assert not np.allclose(first.embeddings, network(waveform[::-1].copy()).embeddings, atol=1e-3)
    assert np.array_equal(np.random.get_state()[1], state), "the global random state is as before"


@pytest.mark.parametrize("waveform", [np.zeros((2, 100)), np.zeros(0), np.full(40_000, np.nan)])
def test_what_is_no_mono_waveform_is_refused(network, waveform):
    with pytest.raises(ValueError, match=r"mono waveform|NaN"):
        network(waveform)


def test_identities_tell_weights_and_front_ends_apart(weights, tmp_path):
    write_weights(tmp_path, seed=1, width=4, hidden=32)
    networks = [load_network(name, folder) for name in ("cnn14", "vggish", "clap") for folder in (weights, tmp_path)]
    networks += [vggish.Vggish(weights, "none"), vggish.Vggish(weights, postprocess=True)]
    identities = [each.identity for each in networks]
    assert len(set(identities)) == len(identities)
    assert all(len(each.identity) == len(each.name) + 17 for each in networks)
    assert load_network("cnn14", weights).identity == identities[0]


def test_constants_and_short_sounds_are_prepared_as_audioldm_eval_does(weights):
    for network in (cnn14.Cnn14(weights), vggish.Vggish(weights)):
        waveform = sound(network, 1.3)
        padded = np.pad(waveform - waveform.mean(), (0, 32_000 - len(waveform)))
        given, expected = network(waveform + 0.25).embeddings, network(padded).embeddings
        np.testing.assert_allclose(given, expected, atol=2e-2)  # the padded one's mean is not quite 0
        assert not np.allclose(given, network(waveform[:5000]).embeddings, atol=2e-2)


def test_vggish_counts_whole_windows_only(weights):
    network = vggish.Vggish(weights, "none")
    assert len(network(sound(network, 0.975)).embeddings) == 1
    assert len(network(sound(network, 1.93)).embeddings) == 1
    assert len(network(sound(network, 1.935)).embeddings) == 2
    with pytest.raises(ValueError, match="needs 15600 samples"):
        network(sound(network, 0.97))
    with pytest.raises(ValueError, match="unknown preparation 'mean'"):
        vggish.Vggish(weights, "mean")


def test_vggish_postprocessing_is_pca_and_256_steps(weights):
    released = vggish.Vggish(weights, postprocess=True)(signals()[0]).embeddings
    assert np.array_equal(released, released.round())
    assert 0 <= released.min() < released.max() <= 255
    assert len(np.unique(released)) > 10


def test_vggish_pca_is_read_as_an_old_numpy_wrote_it(weights, tmp_path):
    file = (weights / vggish.PCA).read_bytes()
    old = tmp_path / vggish.PCA
    old.write_bytes(file.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
    for ours, theirs in zip(vggish.read_pca(weights / vggish.PCA), vggish.read_pca(old), strict=True):
        assert torch.equal(ours, theirs)
    assert b"numpy.core.multiarray\n" in old.read_bytes()
    old.write_bytes(file.replace(b"pca_means", b"pca_modes"))
    with pytest.raises(ValueError, match="not torchvggish's PCA"):
        vggish.read_pca(old)


def test_clap_embeds_captions_into_the_space_of_sounds(weights):
    network = clap.Clap(weights)
    captions = ["a dog barks", "rain falls on a tin roof while " + "thunder rolls, " * 30]
    text = network.embed_text(captions * 20)
    assert text.shape == (40, 24)
    assert network(sound(network, 1.0)).embeddings.shape == (1, 24)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(text[:2], text[38:], atol=1e-5)  # whatever else is in the batch
    np.testing.assert_allclose(network.embed_text(captions[:1])[0], text[0], atol=1e-5)
    assert np.abs(text[0] - text[1]).max() > 1e-3


def test_captions_are_cut_at_77_tokens_whatever_the_tokenizer_would_do(weights):
    network = clap.Clap(weights)
    network._tokenizer.model_max_length = 512
    longer = network.embed_text(["rain " * 100 + end for end in ("", "a dog barks")])
    assert np.array_equal(longer[0], longer[1])


def test_missing_things_are_named(tmp_path):
    with pytest.raises(ValueError, match="unknown evaluation network 'mert'; choose one of yamnet, cnn14, vggish"):
        load_network("mert", tmp_path)
    with pytest.raises(ValueError, match="no such folder of weights"):
        load_network("cnn14", tmp_path / "nowhere")
    for name, file in {"cnn14": cnn14.CHECKPOINT, "vggish": vggish.CHECKPOINT, "clap": clap.FOLDER}.items():
        with pytest.raises(ValueError, match=f"{file} is missing"):
            load_network(name, tmp_path)
    (tmp_path / clap.FOLDER).mkdir()
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        load_network("clap", tmp_path)


def test_passt_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hear21passt.models.passt", None)  # as where it is not installed
    with pytest.raises(ValueError, match=r"pip install hear21passt==0\.0\.26"):
        NETWORKS["passt"](tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("hear21passt") is None, reason="hear21passt is not installed")
def test_passt_gives_what_its_package_gives(tmp_path):
    from hear21passt.models.passt import get_model
    from hear21passt.models.preprocess import AugmentMelSTFT
    from hear21passt.wrapper import PasstBasicWrapper

    with pytest.raises(ValueError, match=passt.CHECKPOINT):
        NETWORKS["passt"](tmp_path)
    mel = AugmentMelSTFT(n_mels=128, sr=32_000, win_length=800, hopsize=320, n_fft=1024, fmin_aug_range=10)
    mel.fmax = 15_000  # get_basic_model's, from its range of augmentation
    reference = PasstBasicWrapper(mel, get_model(passt.ARCHITECTURE, pretrained=False), mode="all").eval()
    torch.save(reference.net.state_dict(), tmp_path / passt.CHECKPOINT)
    network = load_network("passt", tmp_path)
    waveform = sound(network, 4.0)
    padded = torch.from_numpy(np.pad(waveform - waveform.mean(), (0, 320_000 - len(waveform))))[None]
    with torch.inference_mode():
        expected = reference(padded)[0].numpy()  # 527 logits, then 768 numbers
    features = network(waveform)
    np.testing.assert_allclose(np.concatenate([features.logits, features.embeddings[0]]), expected, atol=1e-5)


def test_foreign_checkpoints_are_refused(tmp_path):
    path = tmp_path / cnn14.CHECKPOINT
    state = cnn14_state(seed=0, width=4)
    foreign = {
        "no weights under the key 'model'": state,
        r"entries differ, first bn0\.bias \(expected \(64,\), the file has missing\)": {
            "model": {name: value for name, value in state.items() if name != "bn0.bias"}
        },
        r"first conv_block2\.conv1\.weight \(expected \(8, 4, 3, 3\), the file has \(8, 5, 3, 3\)\)": {
            "model": state | {"conv_block2.conv1.weight": torch.zeros(8, 5, 3, 3)}
        },
        r"melW is not that of CNN14 at 16000 Hz": {
            "model": state | {"logmel_extractor.melW": state["logmel_extractor.melW"].flip(1)}
        },
        "can be read safely": {"model": state, "optimizer": torch.nn.Linear(1, 1)},
    }
    for message, checkpoint in foreign.items():
        torch.save(checkpoint, path)
        with pytest.raises(ValueError, match=message):
            cnn14.Cnn14(tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="not a checkpoint of torch that can be read safely"):
        cnn14.Cnn14(tmp_path)
    torch.save({"model": state}, tmp_path / vggish.CHECKPOINT)
    with pytest.raises(ValueError, match="among its weights, 'model' is a dict"):
        vggish.Vggish(tmp_path)


class Trap:
    def __reduce__(self):
        return print, ("a checkpoint has run code",)


def test_a_clap_without_all_its_weights_is_refused(tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    write_weights(tmp_path, seed=0, width=1, hidden=4)
    path = tmp_path / clap.FOLDER / "model.safetensors"
    state = load_file(path)
    del state["audio_projection.linear1.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 of its weights are missing, such as audio_projection\.linear1\.weight"):
        clap.Clap(tmp_path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="not a readable ClapModel"):
        clap.Clap(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="no weights there"):
        clap.Clap(tmp_path)
    torch.save(Trap(), path.with_name("pytorch_model.bin"))
    with pytest.raises(ValueError, match="not a readable ClapModel"):
        clap.Clap(tmp_path)
    assert "run code" not in capsys.readouterr().out


def test_clap_fuses_views_of_long_sounds_only(weights):
    """What laion-clap does in evaluation; transformers would fuse the equal views of a short one too."""
    network = clap.Clap(weights)
    seen = []
    hook = network.model.audio_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(bool(kwargs["is_longer"])), with_kwargs=True
    )
    for seconds in (1.0, 10.0, 10.005, 10.24):  # the third has no frame more than the second
        network(sound(network, seconds))
    hook.remove()
    assert seen == [False, False, False, True]
