import subprocess
import sys

import pytest
import torch

from impact_pl.text_encoders import base
from impact_pl.text_encoders.registry import load_text_encoder


@pytest.fixture(scope="module")
def encoder():
    return load_text_encoder("minilm")


def test_shapes_mask_and_zero_padding(encoder):
    text = encoder.encode(["a dog barks", "rain falls on a tin roof while thunder rolls"])
    features = text.features["minilm"]
    assert encoder.features == {"minilm": (32, 384)}
    assert features.shape == (2, 32, 384)
    assert text.mask.dtype == torch.bool
    assert text.mask.sum(dim=1).tolist() == [6, 11]  # [CLS], [SEP] and pieces of words ("barks" has two) included
    assert (features[~text.mask] == 0).all()
    assert not features.requires_grad


def test_a_caption_does_not_depend_on_its_batch_nor_on_train_mode(encoder):
    alone = encoder.encode(["a dog barks"])
    encoder.train()
    together = encoder.encode(["a dog barks", "a much longer caption about wind in the trees"])
    torch.testing.assert_close(together.features["minilm"][:1], alone.features["minilm"], atol=1e-5, rtol=1e-4)
    assert not encoder.model.training


def test_features_are_those_of_transformers(encoder):
    """Token ids are equal, states up to rounding."""
    from transformers import AutoModel, AutoTokenizer

    captions = [
        "a dog barks",
        "",
        "  Ümläut   café NAÏVE",
        "雨の音 and rain",
        "don't [MASK] [SEP] 3.5kHz\n",
        "word " * 99,
    ]
    tokenizer = AutoTokenizer.from_pretrained(encoder.folder)
    tokens = tokenizer(captions, padding="max_length", truncation=True, max_length=32, return_tensors="pt")
    assert [each.ids for each in encoder.tokenizer.encode_batch(captions)] == tokens["input_ids"].tolist()
    text, mask = encoder.encode(captions), tokens["attention_mask"].bool()
    with torch.no_grad():
        states = AutoModel.from_pretrained(encoder.folder).eval()(**tokens).last_hidden_state
    torch.testing.assert_close(text.features["minilm"], states * mask[..., None], atol=2e-5, rtol=1e-4)
    assert torch.equal(text.mask, mask)


def test_long_captions_are_cut_and_empty_ones_work(encoder):
    text = encoder.encode(["word " * 100, ""])
    assert text.mask.sum(dim=1).tolist() == [32, 2]


def test_the_first_caption_that_is_cut_is_told_with_its_words(encoder, caplog, monkeypatch):
    monkeypatch.setattr(base, "_warned", set())
    encoder.encode(["word " * 30])  # [CLS] and [SEP] fit as well
    assert not caplog.text
    encoder.encode(["rain", "word " * 27 + "zzyzxqv " * 5, "word " * 90])
    assert (
        "longer than the text encoder's 32 positions: the first 27 of its 32 words are used (word word" in caplog.text
    )
    encoder.encode(["word " * 80])
    assert len(caplog.records) == 1


def test_sentence_similarities_are_sensible(encoder):
    text = encoder.encode(["a dog barks", "a puppy is barking", "a jet engine roars"])
    mean = text.features["minilm"].sum(dim=1) / text.mask.sum(dim=1, keepdim=True)
    dog, puppy, engine = torch.nn.functional.normalize(mean, dim=-1)
    assert dog @ puppy > dog @ engine + 0.2


def test_identity_is_the_same_in_another_process(encoder):
    code = "from impact_pl.text_encoders.registry import load_text_encoder as f; print(f('minilm').identity)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.split()[-1] == encoder.identity
    assert len(encoder.identity) == 16


def test_errors_say_what_to_write(encoder):
    with pytest.raises(ValueError, match="write t5:ARGUMENT, it needs one"):
        load_text_encoder("t5")
    with pytest.raises(ValueError, match="no captions"):
        encoder.encode([])
