"""A codec and a text encoder of one's own: the guide's blocks run, and installed packages' parts are found by name."""

import json
import sys

import pytest
import torch
from lightning import LightningDataModule

from impact_pl.cli import generate, precompute, train, verify
from impact_pl.codecs.registry import CODECS, load_codec
from impact_pl.data.datamodule import LatentDataModule
from impact_pl.data.shards import ShardIndex
from impact_pl.registry import build_part
from impact_pl.text_encoders.base import TextEncoder, TextFeatures
from impact_pl.text_encoders.registry import TEXT_ENCODERS, load_text_encoder
from tests.helpers.documents import blocks

CODEC, TEXT_ENCODER = blocks("docs/extending.md", "python")
ENTRY_POINTS = (
    "[impact_pl.codecs]\nsamples = my_parts:SampleCodec\n[impact_pl.text_encoders]\nbytes = my_parts:ByteEncoder\n"
)


def test_the_guide_s_blocks_are_twenty_lines_and_run(monkeypatch):
    monkeypatch.setattr("impact_pl.codecs.registry.CODECS", dict(CODECS))
    monkeypatch.setattr("impact_pl.text_encoders.registry.TEXT_ENCODERS", dict(TEXT_ENCODERS))
    for block in (CODEC, TEXT_ENCODER):
        assert len([line for line in block.splitlines() if line.strip()]) <= 20
        exec(block, {})
    codec, waveform = load_codec("samples"), torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    moments = codec.encode(waveform)
    assert moments.shape == (2, 256, codec.latent_frames(1000), 1) == (2, 256, 8, 1)
    assert torch.equal(codec.decode(moments[:, :128])[:, :1000], waveform)
    text = load_text_encoder("bytes+minilm").encode(["a dog", "rain " * 20])
    assert {name: tuple(feature.shape) for name, feature in text.features.items()} == {
        "bytes": (2, 64, 8),
        "minilm": (2, 32, 384),
    }
    assert text.mask[:, :64].sum(dim=1).tolist() == [5, 64]
    assert text.features["bytes"][0, 0].tolist() == [float(bit) for bit in reversed(f"{ord('a'):08b}")]


class Weighted(TextEncoder):
    """One number a caption, where its weight is."""

    name, identity = "weighted", "weighted-1"
    features = {"weighted": (1, 1)}

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def encode(self, captions):
        feature = self.weight.detach().repeat(len(captions), 1, 1)
        return TextFeatures({"weighted": feature}, torch.ones_like(feature[..., 0], dtype=torch.bool))


def test_an_encoder_without_weights_goes_where_the_others_are(monkeypatch):
    """The guide's encoder leaves its features on the CPU; the meta device stands for a GPU."""
    monkeypatch.setattr("impact_pl.text_encoders.registry.TEXT_ENCODERS", TEXT_ENCODERS | {"weighted": Weighted})
    exec(TEXT_ENCODER, {})
    joined = load_text_encoder("bytes+weighted").to("meta")
    for text in (joined.encode(["a dog", "rain"]), joined.encode_known(["a dog", ""])):
        assert {feature.device.type for feature in [*text.features.values(), text.mask]} == {"meta"}
    data = LatentDataModule.__new__(LatentDataModule)
    LightningDataModule.__init__(data)
    data.text_encoder = load_text_encoder("bytes")
    batch = data.on_after_batch_transfer({"moments": torch.empty(2, device="meta"), "captions": ["a dog", ""]}, 0)
    assert batch["text"].features["bytes"].device.type == batch["text"].mask.device.type == "meta"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package beside its metadata, as pip leaves it."""
    (tmp_path / "my_parts.py").write_text(
        CODEC.split("\n\n\nCODECS")[0] + "\n" + TEXT_ENCODER.split("\n\n\nTEXT_ENC")[0]
    )
    metadata = tmp_path / "my_parts-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("my_parts", None)


def test_the_commands_find_parts_of_installed_packages(installed, sounds, run, tmp_path, capsys):
    out, runs = tmp_path / "latents", tmp_path / "runs"
    given = [f"manifest={sounds}", f"out={out}", "clip_seconds=0.512", "codec=samples", "text_encoder=bytes"]
    assert run(precompute.main, *given) == 0
    index = ShardIndex.load(out / "train")
    assert (index.codec["name"], index.codec["identity"]) == ("samples", "samples-1")
    assert index.text_encoder == {"name": "bytes", "identity": "bytes-1", "features": {"bytes": [64, 8]}}
    assert run(verify.main, out) == 0
    small = ["model=tiny", "trainer=cpu", "trainer.max_steps=2", "data.batch_size=4", "init_from="]
    assert run(train.main, "experiment=text", f"data.path={out}", f"runs_dir={runs}", *small) == 0
    model = runs / "text" / "model"
    assert json.loads((model / "config.json").read_text())["text_encoder"] == {"name": "bytes", "identity": "bytes-1"}
    quick = ["--iterations", 2, "--diffusion-steps", 3, "--duration", 0.5]
    assert run(generate.main, "a low hum", "-o", tmp_path / "hum.wav", "--model", model, *quick) == 0
    (installed / "my_parts-1.0.dist-info" / "entry_points.txt").write_text("")
    assert run(generate.main, "a low hum", "-o", tmp_path / "hum.wav", "--model", model, *quick) == 2
    assert "no text encoder 'bytes': choose one of minilm" in capsys.readouterr().err


def test_arguments_are_passed_and_counted():
    own = {
        "plain": lambda: "made",
        "with": lambda folder: f"made of {folder}",
        "either": lambda size="8": f"size {size}",
    }
    assert build_part("codec", own, "no.such.group", "plain") == "made"
    assert build_part("codec", own, "no.such.group", "with:/a:b") == "made of /a:b"
    assert build_part("codec", own, "no.such.group", "either") == "size 8"
    assert build_part("codec", own, "no.such.group", "either:9") == "size 9"
    for name, said in (
        ("plain:x", "write plain alone, it takes no argument"),
        ("with", "write with:ARGUMENT, it needs one"),
        ("other", "no codec 'other': choose one of plain, with, either"),
    ):
        with pytest.raises(ValueError, match=said):
            build_part("codec", own, "no.such.group", name)
