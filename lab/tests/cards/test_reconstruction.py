import numpy as np
import pytest
import torch

from lab.cards.aisfx import BLOCK_FRAMES, HOP, Aisfx, AisfxModel, log_mel, mel_filters
from lab.cards.reconstruction import ReconstructionJudge


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file like the package's: a pair of weights (random ones) and data sets, with numpy's numbers in it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("aisfx") / "checkpoint.pth"
    state = {f"embedding_net.{name}": value for name, value in AisfxModel().state_dict().items()}
    torch.save(({**state, "fc.0.0.weight": torch.zeros(2, 2)}, {"UMIX": (0, np.int64(5))}), path)
    return path


def sounds(level: float = 0.0) -> list[torch.Tensor]:
    """Four sounds of 1.2 s, with a noise of ``level`` on top."""
    generator, time = torch.Generator().manual_seed(0), torch.arange(19_200) / 16_000
    tones = [0.2 * (2 * torch.pi * 300 * (i + 1) * time).sin() * (5 * time).cos() for i in range(4)]
    return [tone + level * torch.randn(19_200, generator=generator) for tone in tones]


def test_recordings_themselves_are_perfect_and_noise_is_not(checkpoint):
    pytest.importorskip("onnxruntime")
    judge = ReconstructionJudge(sounds(), aisfx=checkpoint)
    same, noisy = judge(sounds()), judge(sounds(0.05))
    assert list(same) == ["FD-YAMNet", "FD-aisfx", "cosine", "top-1", "mel L1", "STFT L1"]
    perfect = {"FD-YAMNet": 0, "FD-aisfx": 0, "cosine": 1, "top-1": 1, "mel L1": 0, "STFT L1": 0}
    assert same == pytest.approx(perfect, abs=1e-3)
    for name in ("FD-YAMNet", "mel L1", "STFT L1"):
        assert noisy[name] > same[name] + 0.01
    assert noisy["FD-aisfx"] > same["FD-aisfx"] + 1e-6  # its weights are random here
    assert noisy["cosine"] < 0.99
    assert judge.distances(judge.scorers(sounds(0.05))) == {name: noisy[name] for name in ("FD-YAMNet", "FD-aisfx")}


def test_labelled_recordings_have_an_accuracy():
    pytest.importorskip("onnxruntime")
    judge = ReconstructionJudge(sounds(), labels=["rain", "dog", "rooster", "helicopter"])
    assert judge(sounds())["accuracy"] == judge.accuracy(judge.heard)["accuracy"]
    assert ReconstructionJudge(sounds()).accuracy(judge.heard) == {}


def test_without_aisfx_its_figure_is_left_out():
    pytest.importorskip("onnxruntime")
    assert "FD-aisfx" not in ReconstructionJudge(sounds())(sounds())


def test_aisfx_hears_blocks_of_two_seconds(checkpoint):
    network = Aisfx(checkpoint)
    noise = 0.1 * np.random.default_rng(0).standard_normal(44_100 * 6).astype(np.float32)
    block = BLOCK_FRAMES * HOP
    for num_samples, num_blocks in ((100, 1), (block - HOP, 1), (block + HOP, 2), (2 * block - HOP, 3)):
        assert network(noise[:num_samples]).embeddings.shape == (num_blocks, 512)


def test_aisfx_front_end_hears_a_tone_in_its_band():
    tone = 0.5 * (2 * torch.pi * 1000 * torch.arange(44_100) / 44_100).sin()
    mel, filters = log_mel(tone, mel_filters()), mel_filters()
    assert mel.shape == (44, 96)
    assert mel[20].argmax() == filters[:, round(1000 / 44_100 * 2048)].argmax()
    torch.testing.assert_close(filters.sum(dim=1), torch.ones(96))
    assert 0 <= mel.min() <= mel.max() <= 1


def test_aisfx_refuses_other_files(tmp_path):
    with pytest.raises(ValueError, match="missing: take aisfx/models"):
        Aisfx(tmp_path / "checkpoint.pth")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(ValueError, match="not aisfx's checkpoint"):
        Aisfx(tmp_path / "junk.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "dict.pth")
    with pytest.raises(ValueError, match="a pair of weights"):
        Aisfx(tmp_path / "dict.pth")
    torch.save(({"embedding_net.a": torch.zeros(1)}, {}), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="another network's checkpoint"):
        Aisfx(tmp_path / "other.pth")
