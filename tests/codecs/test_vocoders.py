"""Vocoders of AudioLDM's mel spectrogram: they give sounds that have it, where they have it."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from impact_pl.codecs.audioldm import AudioLDMMel
from impact_pl.codecs.builtin import BuiltinCodec, BuiltinCodecSpec
from impact_pl.codecs.registry import load_codec
from impact_pl.codecs.vocoders import FastVocoder, GriffinLim, load_vocoder
from impact_pl.randomness import PositionalNoise
from tests.helpers.published import save_audioldm

WAVEFORM = load_file(Path(__file__).parents[1] / "golden" / "audioldm_mel.safetensors")["waveform"][None]


@pytest.fixture(scope="module")
def fast() -> FastVocoder:
    return FastVocoder().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    pytest.importorskip("diffusers", reason="the extra [audioldm] is not installed")
    return save_audioldm(tmp_path_factory.mktemp("audioldm"))


@torch.no_grad()
def mel_error(vocoder, waveform: torch.Tensor, shift: int = 0) -> float:
    """Mean difference of the log-mel of what a vocoder plays, ``shift`` samples later, above -60 dB."""
    mel, floor = AudioLDMMel(), -5.0
    wanted = mel(waveform)
    played = mel(vocoder(wanted).roll(shift, dims=1))
    return float((wanted.clamp(min=floor) - played.clamp(min=floor)).abs().mean())


def test_the_fast_vocoder_has_the_mel_spectrogram_at_its_place(fast):
    error = mel_error(fast, WAVEFORM)
    assert error < 0.2
    assert error < mel_error(GriffinLim(4), WAVEFORM) + 0.1
    assert all(mel_error(fast, WAVEFORM, shift) > error for shift in (-80, 80))  # half a hop


@pytest.mark.parametrize("vocoder", [FastVocoder(), GriffinLim()], ids=["fast", "griffin_lim"])
def test_a_click_stays_where_it_was(vocoder):
    waveform = torch.zeros(1, 16_000)
    waveform[0, 8000] = 0.9
    with torch.no_grad():
        played = vocoder(AudioLDMMel()(waveform))[0].square()
    centre = float((played * torch.arange(16_000)).sum() / played.sum())
    assert abs(centre - 8000) < 40


def test_griffin_lim_plays_a_tone_and_leaves_the_global_generator():
    tone = 0.2 * (2 * math.pi * 1000 * torch.arange(16_000) / 16_000).sin()[None]
    before = torch.random.get_rng_state()
    played = GriffinLim()(AudioLDMMel()(tone))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert played.shape == (1, 16_000)
    assert abs(int(torch.fft.rfft(played[0]).abs().argmax()) - 1000) < 60


@pytest.mark.parametrize("num_frames", [4, 7, 100])
def test_any_number_of_frames_and_any_values(fast, num_frames):
    for scale in (1, 100):
        mel = scale * torch.randn(2, num_frames, 64, generator=torch.Generator().manual_seed(0))
        waveform = fast(mel)
        assert waveform.shape == (2, 160 * num_frames)
        assert torch.isfinite(waveform).all()


def test_the_generator_draws_the_excitation_of_the_fast_vocoder(fast):
    mel = AudioLDMMel()(WAVEFORM)
    one, same, other = (fast(mel, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(fast(mel), fast(mel, torch.Generator().manual_seed(0)))


def test_mistakes_name_the_choices(fast, tmp_path):
    with pytest.raises(ValueError, match="no vocoder 'wavenet': choose hifigan, fast, griffin_lim, or a folder"):
        load_vocoder("wavenet", tmp_path)
    BuiltinCodec(BuiltinCodecSpec(num_mels=32, decoder_dim=8, decoder_depth=1)).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ValueError, match="num_mels is 32, AudioLDM's at 16 kHz is 64"):
        load_vocoder(str(tmp_path / "narrow"), tmp_path)
    with pytest.raises(ValueError, match="vocoder 'fast': codec 'builtin' has none to choose"):
        load_codec("builtin", vocoder="fast")
    fast.codec.save_pretrained(tmp_path / "mine")
    mel = AudioLDMMel()(WAVEFORM)
    torch.testing.assert_close(load_vocoder(str(tmp_path / "mine"), tmp_path)(mel), fast(mel))


def test_audioldm_s_codec_needs_no_vocoder_of_the_checkpoint(folder, fast, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "vocoder")
    codec = load_codec(f"audioldm:{copy}", vocoder="fast")
    assert codec.identity == load_codec(f"audioldm:{folder}").identity
    latents = torch.randn(2, 8, 4, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = fast(codec.vae.decode(latents).sample[:, 0], torch.Generator().manual_seed(3))
    assert torch.equal(codec.decode(latents, torch.Generator().manual_seed(3)), expected)
    reduced = codec.decoder_in(torch.bfloat16)(latents, torch.Generator().manual_seed(3))
    assert reduced.shape == expected.shape == (2, 2560)
    assert (reduced - expected).abs().mean() < 0.1 * expected.abs().mean()
    with pytest.raises(ValueError, match=r"vocoder/config\.json missing"):
        load_codec(f"audioldm:{copy}")


@pytest.mark.parametrize("start", [0, 640])
def test_the_fast_vocoder_s_excitation_has_an_absolute_position(fast, start):
    """A part of a stream, decoded with context, equals the whole."""
    mel, margin = AudioLDMMel()(WAVEFORM.tile(1, 4))[:, :400], fast.context
    noise = PositionalNoise([0], [None], "codec")
    with torch.no_grad():
        whole = fast(mel, noise.at(0))
        part = fast(mel[:, start // 160 :], noise.at(start))
    begin = start + margin * 160 if start else 0
    torch.testing.assert_close(part[:, begin - start :], whole[:, begin:], atol=1e-4, rtol=0)


def test_griffin_lim_refuses_a_stream(folder):
    codec = load_codec(f"audioldm:{folder}", vocoder="griffin_lim")
    noise = PositionalNoise([0], [None], "codec")
    with pytest.raises(ValueError, match="needs a whole sound"):
        codec.decode_stream([torch.zeros(1, 8, 4, 16)], noise)
    assert codec.decode(torch.zeros(1, 8, 4, 16)).shape == (1, 2560)
