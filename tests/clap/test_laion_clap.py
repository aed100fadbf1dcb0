"""laion-clap itself (`make test-clap`, in an environment of its own) against the text tower that is read without it."""

import sys

import numpy as np
import pytest
import torch

from impact_pl.text_encoders.registry import load_text_encoder
from tests.helpers.published import roberta_config, save_roberta, save_roberta_tokenizer

pytestmark = pytest.mark.clap
CAPTIONS = ["a dog barks", "rain falls on the tin roof and a low hum", "hiss " * 100]
HIDDEN = 768  # laion-clap's text projection takes no other


def declare_operators() -> None:
    """torchvision, which laion-clap imports, has wheels for CUDA only: on others its operators are missing.

    transformers fails with it then; declaring two of them is enough to import both.
    """
    if torch.version.cuda is None:
        LIBRARIES.append(torch.library.Library("torchvision", "DEF"))
        LIBRARIES[0].define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        LIBRARIES[0].define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


LIBRARIES: list[torch.library.Library] = []  # a declaration lives as long as its library


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """laion-clap's module with random weights, and the checkpoint that it writes and reads itself.

    The package loads three tokenizers and roberta-base by name from the hub: folders of these names in the working
    directory stand for them. The text tower is small in depth and vocabulary; the audio tower (HTSAT, fusion) has its
    full size.
    """
    declare_operators()
    folder = tmp_path_factory.mktemp("laion")
    save_roberta(folder / "roberta-base", HIDDEN, weights=True)
    for name in ("bert-base-uncased", "facebook/bart-base"):
        save_roberta_tokenizer(folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["test"])  # it parses the command line when it is imported
        import laion_clap

        torch.manual_seed(0)
        module = laion_clap.CLAP_Module(enable_fusion=True, device="cpu")
        module.model.eval()
    state = {f"module.{name}": value for name, value in module.model.state_dict().items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]  # as transformers 4.30 and older
    content = {"epoch": 45, "name": "test", "best": np.float64(0.5), "state_dict": state}
    torch.save(content, folder / "630k-audioset-fusion-best.pt")
    return module, folder


def test_the_checkpoint_gives_laion_clap_s_own_embeddings(reference):
    module, folder = reference
    checkpoint = folder / "630k-audioset-fusion-best.pt"
    expected_before = module.get_text_embedding(CAPTIONS, use_tensor=True)
    with torch.no_grad():
        for parameter in module.model.parameters():
            parameter.zero_()
    module.load_ckpt(str(checkpoint), verbose=False)  # the package's own reader of its own format
    expected = module.get_text_embedding(CAPTIONS, use_tensor=True).detach()
    assert torch.equal(expected, expected_before)
    encoder = load_text_encoder(f"laion_clap:{checkpoint}")
    assert encoder.features == {"clap": (1, 512)}
    embeddings = encoder.encode(CAPTIONS).features["clap"][:, 0]
    print("largest difference from laion-clap:", (embeddings - expected).abs().max().item())
    torch.testing.assert_close(embeddings, expected, atol=1e-6, rtol=1e-5)
    assert (embeddings[0] - embeddings[1]).abs().max() > 1e-3  # the captions are told apart


def test_the_package_s_tokenizer_and_ours_agree(reference):
    module, folder = reference
    theirs = module.tokenizer(CAPTIONS)
    encoder = load_text_encoder(f"laion_clap:{folder / '630k-audioset-fusion-best.pt'}")
    from impact_pl.text_encoders.tokens import tokenize

    ours = tokenize(encoder.tokenizer, CAPTIONS, 77)
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["attention_mask"], theirs["attention_mask"])


def test_transformers_clap_with_the_same_weights_agrees(reference, tmp_path):
    from transformers import ClapConfig, ClapModel

    module, _ = reference
    text = roberta_config(HIDDEN) | {"projection_dim": 512}
    config = ClapConfig(text_config=text, projection_dim=512)
    converted = ClapModel(config)
    names = {"text_projection.0": "text_projection.linear1", "text_projection.2": "text_projection.linear2"}
    state = {}
    for name, value in module.model.state_dict().items():
        for old, new in {**names, "text_branch": "text_model"}.items():
            if name.startswith(f"{old}."):
                state[f"{new}.{name.removeprefix(f'{old}.')}"] = value
    missing, unexpected = converted.load_state_dict(state, strict=False)
    assert not unexpected
    buffers = ("position_ids", "type_ids")
    assert not [name for name in missing if name.startswith("text_") and not name.endswith(buffers)]
    converted.save_pretrained(tmp_path)
    save_roberta_tokenizer(tmp_path)
    embeddings = load_text_encoder(f"clap:{tmp_path}").encode(CAPTIONS).features["clap"][:, 0]
    expected = module.get_text_embedding(CAPTIONS, use_tensor=True).detach()
    print("largest difference of transformers' ClapModel:", (embeddings - expected).abs().max().item())
    torch.testing.assert_close(embeddings, expected, atol=1e-6, rtol=1e-5)
