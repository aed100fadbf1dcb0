"""T5, CLAP and both, on small random models in the published formats; tests/clap has laion-clap's own numbers."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from impact_pl.text_encoders.registry import TEXT_ENCODERS, load_text_encoder
from tests.helpers.published import laion_state, save_clap, save_roberta, save_t5

CAPTIONS = ["a dog barks", "rain falls on the tin roof and a low hum"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a T5 and a CLAP, under a name with a plus in it."""
    root = tmp_path_factory.mktemp("models+more")
    return save_t5(root / "t5+base"), save_clap(root / "clap")


@pytest.fixture(scope="module")
def t5(folders):
    return load_text_encoder(f"t5:{folders[0]}")


@pytest.fixture(scope="module")
def clap(folders):
    return load_text_encoder(f"clap:{folders[1]}")


def test_t5_is_the_encoder_of_transformers_at_77_positions(t5, folders):
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    whole = T5ForConditionalGeneration.from_pretrained(folders[0]).eval()
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    text = t5.encode(CAPTIONS)
    features = text.features["t5"]
    assert t5.features == {"t5": (77, 12)}
    assert features.shape == (2, 77, 12)
    assert text.mask.sum(dim=1).tolist() == [4, 11]  # words and </s>
    for row, caption in enumerate(CAPTIONS):  # each alone, without padding
        tokens = tokenizer(caption, return_tensors="pt")
        with torch.no_grad():
            expected = whole.encoder(input_ids=tokens["input_ids"]).last_hidden_state[0]
        torch.testing.assert_close(features[row, : len(expected)], expected, atol=1e-5, rtol=1e-4)
        assert text.mask[row].tolist() == [i < len(expected) for i in range(77)]
    assert (features[~text.mask] == 0).all()
    assert not features.requires_grad


def test_t5_cuts_long_captions_and_keeps_the_end_token(t5):
    text = t5.encode(["rain " * 100, "rain"])
    assert text.mask.sum(dim=1).tolist() == [77, 2]
    ids = t5.tokenizer("rain " * 100, truncation=True, max_length=77)["input_ids"]
    assert ids[-1] == t5.tokenizer.eos_token_id


def test_clap_is_transformers_text_embedding_of_length_one(clap, folders):
    from transformers import AutoTokenizer, ClapModel

    whole = ClapModel.from_pretrained(folders[1]).eval()
    tokenizer = AutoTokenizer.from_pretrained(folders[1])
    text = clap.encode(CAPTIONS)
    assert clap.features == {"clap": (1, 20)}
    assert text.mask.tolist() == [[True], [True]]
    for row, caption in enumerate(CAPTIONS):
        with torch.no_grad():
            tower = whole.text_model(**tokenizer(caption, return_tensors="pt"))
            expected = whole.text_projection(tower.pooler_output)[0]
        torch.testing.assert_close(text.features["clap"][row, 0], expected / expected.norm(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(text.features["clap"].norm(dim=-1), torch.ones(2, 1))


def test_joined_encoders_give_the_paper_s_78_positions_in_order(t5, clap, folders):
    both = load_text_encoder(f"clap:{folders[1]}+t5:{folders[0]}")
    assert both.features == {"clap": (1, 20), "t5": (77, 12)}
    text = both.encode(CAPTIONS)
    assert list(text.features) == ["clap", "t5"]
    assert text.mask.shape == (2, 78)
    assert torch.equal(text.features["clap"], clap.encode(CAPTIONS).features["clap"])
    assert torch.equal(text.features["t5"], t5.encode(CAPTIONS).features["t5"])
    assert torch.equal(text.mask, torch.cat([clap.encode(CAPTIONS).mask, t5.encode(CAPTIONS).mask], dim=1))
    again = load_text_encoder(both.name)
    assert (again.name, again.identity) == (both.name, both.identity)
    turned = load_text_encoder(f"t5:{folders[0]}+clap:{folders[1]}")
    assert list(turned.features) == ["t5", "clap"]
    assert turned.identity != both.identity


def test_clips_without_caption_have_no_features(folders):
    both = load_text_encoder(f"clap:{folders[1]}+t5:{folders[0]}")
    text, whole = both.encode_known(["", CAPTIONS[0], ""]), both.encode([CAPTIONS[0]])
    assert text.mask.sum(dim=1).tolist() == [0, 5, 0]
    for name, feature in text.features.items():
        assert torch.equal(feature[1], whole.features[name][0])
        assert feature[::2].abs().max() == 0
    none = both.encode_known(["", ""])
    assert none.mask.shape == (2, 78)
    assert not none.mask.any()


def test_names_are_found_from_anywhere(t5, folders, monkeypatch):
    monkeypatch.chdir(folders[0].parent)
    again = load_text_encoder("t5:t5+base")
    assert again.name == t5.name == f"t5:{folders[0].resolve()}"
    assert again.identity == t5.identity


def changed(folder, tmp_path, name, change):
    copy = tmp_path / name
    shutil.copytree(folder, copy)
    change(copy)
    return copy


def test_identity_follows_weights_configuration_and_tokenizer(t5, folders, tmp_path):
    def weights(copy):
        state = load_file(copy / "model.safetensors")
        state["shared.weight"] += 1e-3
        save_file(state, copy / "model.safetensors", {"format": "pt"})

    def tokenizer(copy):
        content = json.loads((copy / "tokenizer.json").read_text())
        content["model"]["vocab"][5:7] = reversed(content["model"]["vocab"][5:7])
        (copy / "tokenizer.json").write_text(json.dumps(content))

    def configuration(copy):
        content = json.loads((copy / "config.json").read_text()) | {"layer_norm_epsilon": 1e-5}
        (copy / "config.json").write_text(json.dumps(content))

    changes = {"weights": weights, "tokenizer": tokenizer, "configuration": configuration, "same": lambda copy: None}
    identities = {
        name: load_text_encoder(f"t5:{changed(folders[0], tmp_path, name, change)}").identity
        for name, change in changes.items()
    }
    assert identities.pop("same") == t5.identity
    assert len({*identities.values(), t5.identity}) == 4


def test_mistakes_name_what_is_missing(folders, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="choose one of minilm, t5, clap, laion_clap"):
        load_text_encoder("t6:x")
    with pytest.raises(ValueError, match="no text encoder 't55': choose one of minilm, t5"):
        load_text_encoder(f"clap:{folders[1]}+t55:{folders[0]}")
    with pytest.raises(ValueError, match="write t5:ARGUMENT, it needs one"):
        load_text_encoder("t5")
    with pytest.raises(ValueError, match="write minilm alone, it takes no argument"):
        load_text_encoder("minilm:large")
    with pytest.raises(ValueError, match=f"{tmp_path}/gone: no such folder"):
        load_text_encoder(f"t5:{tmp_path}/gone")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="hub:google/flan-t5-large: not found on the Hugging Face hub"):
        load_text_encoder("minilm+t5:hub:google/flan-t5-large")
    with pytest.raises(ValueError, match=r"checkpoints/t5: no such folder; .*is written hub:OWNER/NAME"):
        load_text_encoder("t5:checkpoints/t5")  # which could be an id as well
    with pytest.raises(ValueError, match=r"config\.json missing; give the whole folder"):
        load_text_encoder(f"t5:{tmp_path}")
    with pytest.raises(ValueError, match="two of its encoders give a feature 't5'"):
        load_text_encoder(f"t5:{folders[0]}+t5:{folders[0]}")
    with pytest.raises(ValueError, match="not a T5EncoderModel"):
        load_text_encoder(f"t5:{folders[1]}")
    with pytest.raises(ValueError, match="no captions"):
        load_text_encoder(f"clap:{folders[1]}").encode([])
    bare = changed(folders[0], tmp_path, "bare", lambda copy: (copy / "tokenizer.json").unlink())
    with pytest.raises(ValueError, match="no tokenizer there"):
        load_text_encoder(f"t5:{bare}")
    cut = (folders[0] / "model.safetensors").read_bytes()[:1000]
    damaged = changed(folders[0], tmp_path, "cut", lambda copy: (copy / "model.safetensors").write_bytes(cut))
    with pytest.raises(ValueError, match="not a readable T5EncoderModel"):
        load_text_encoder(f"t5:{damaged}")
    (damaged / "model.safetensors").unlink()
    for content in (b"", b"no weights", cut):
        (damaged / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ValueError, match="not a readable T5EncoderModel"):
            load_text_encoder(f"t5:{damaged}")
    torch.save(Trap(), damaged / "pytorch_model.bin")
    with pytest.raises(ValueError, match="not a readable T5EncoderModel"):
        load_text_encoder(f"t5:{damaged}")
    (damaged / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="not an index of weights"):
        load_text_encoder(f"t5:{damaged}")
    empty = changed(folders[1], tmp_path, "empty", lambda copy: (copy / "model.safetensors").unlink())
    with pytest.raises(ValueError, match="no weights there"):
        load_text_encoder(f"clap:{empty}")


# laion-clap's own format


@pytest.fixture
def checkpoint(folders, tmp_path):
    """As laion-clap saved it in 2023: a wrapped module's names, a numpy number beside them, under numpy 1's names."""
    save_roberta(tmp_path / "roberta-base")
    content = {"epoch": 45, "name": "630k", "best": np.float64(0.5), "state_dict": laion_state(folders[1])}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    file = tmp_path / "630k-audioset-fusion-best.pt"
    with zipfile.ZipFile(buffer) as new, zipfile.ZipFile(file, "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert b"cnumpy.core.multiarray\nscalar" in file.read_bytes()
    return file


def test_laion_checkpoints_give_the_same_embeddings_as_transformers(clap, checkpoint, folders):
    encoder = load_text_encoder(f"laion_clap:{checkpoint}")
    assert encoder.name == f"laion_clap:{checkpoint.resolve()}"
    assert encoder.features == {"clap": (1, 20)}
    text, expected = encoder.encode(CAPTIONS), clap.encode(CAPTIONS)
    torch.testing.assert_close(text.features["clap"], expected.features["clap"], atol=1e-6, rtol=1e-5)
    assert torch.equal(text.mask, expected.mask)
    joined = load_text_encoder(f"laion_clap:{checkpoint}+t5:{folders[0]}")
    assert joined.features == {"clap": (1, 20), "t5": (77, 12)}
    before = encoder.identity
    content = torch.load(checkpoint, weights_only=False)  # written above
    content["state_dict"]["module.text_projection.2.bias"] += 1
    torch.save(content, checkpoint)
    assert load_text_encoder(f"laion_clap:{checkpoint}").identity != before


def test_a_bare_state_dict_without_position_ids_loads_as_well(clap, checkpoint, folders):
    state = laion_state(folders[1], prefix="")
    state.pop("text_branch.embeddings.position_ids")
    torch.save(state, checkpoint)
    text = load_text_encoder(f"laion_clap:{checkpoint}").encode(CAPTIONS)
    torch.testing.assert_close(text.features["clap"], clap.encode(CAPTIONS).features["clap"], atol=1e-6, rtol=1e-5)


class Trap:
    def __reduce__(self):
        return print, ("a checkpoint has run code",)


def test_laion_mistakes(checkpoint, capsys):
    with pytest.raises(ValueError, match=r"gone\.pt: no such file"):
        load_text_encoder(f"laion_clap:{checkpoint.parent}/gone.pt")
    torch.save({"state_dict": {"module.audio_branch.weight": torch.ones(1)}}, checkpoint)
    with pytest.raises(ValueError, match="no text tower of laion-clap in it"):
        load_text_encoder(f"laion_clap:{checkpoint}")
    torch.save({"state_dict": {}, "more": Trap()}, checkpoint)
    with pytest.raises(ValueError, match="not a checkpoint of torch that can be read safely"):
        load_text_encoder(f"laion_clap:{checkpoint}")
    assert "run code" not in capsys.readouterr().out
    checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="not a checkpoint of torch that can be read safely"):
        load_text_encoder(f"laion_clap:{checkpoint}")
    for content, said in (
        ({"state_dict": [torch.ones(1)]}, "where its weights should be, there is a list"),
        ({"state_dict": {0: torch.ones(1)}}, "among its weights, 0 is a Tensor"),
        ({"state_dict": {"module.text_projection.0.weight": 1.0}}, "is a float, not a tensor"),
        ({"state_dict": {"module.text_projection.0.weight": torch.ones(1)}}, "no text tower"),
        ({0: torch.ones(1)}, "dict with keys such as 0"),
        ([torch.ones(1)], "it holds a list"),
    ):
        torch.save(content, checkpoint)
        with pytest.raises(ValueError, match=said):
            load_text_encoder(f"laion_clap:{checkpoint}")
    save_file({"weight": torch.ones(1)}, checkpoint)
    with pytest.raises(ValueError, match="it is a safetensors file"):
        load_text_encoder(f"laion_clap:{checkpoint}")
    (checkpoint.parent / "roberta-base" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"unreadable tokenizer .*config\.json"):
        load_text_encoder(f"laion_clap:{checkpoint}")
    shutil.rmtree(checkpoint.parent / "roberta-base")
    with pytest.raises(ValueError, match=r"roberta-base: config\.json missing; put roberta-base's"):
        load_text_encoder(f"laion_clap:{checkpoint}")


def test_a_checkpoint_that_does_not_fit_the_configuration_beside_it(checkpoint):
    config = checkpoint.parent / "roberta-base" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 20}))
    with pytest.raises(ValueError, match="text tower does not fit"):
        load_text_encoder(f"laion_clap:{checkpoint}")


def test_the_registry_holds_every_name():
    assert list(TEXT_ENCODERS) == ["minilm", "t5", "clap", "laion_clap"]


def test_a_hub_id_is_found_in_the_hub_s_cache(folders, tmp_path, monkeypatch):
    """The hub's own client, on a cache as it leaves one: there is no network here."""
    snapshot = tmp_path / "models--me--tiny-t5" / "snapshots" / "0123"
    shutil.copytree(folders[0], snapshot)
    (tmp_path / "models--me--tiny-t5" / "refs").mkdir()
    (tmp_path / "models--me--tiny-t5" / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = load_text_encoder("t5:hub:me/tiny-t5")
    assert encoder.name == "t5:hub:me/tiny-t5"
    assert encoder.identity == load_text_encoder(f"t5:{folders[0]}").identity
