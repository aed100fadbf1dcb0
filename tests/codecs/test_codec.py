import json
import math
import time

import pytest
import torch

from impact_pl.codecs.base import AudioCodec
from impact_pl.codecs.builtin import BuiltinCodec, BuiltinCodecSpec
from impact_pl.codecs.decoder import NoiseExcitedDecoder, inverse_stft, mel_interpolation
from impact_pl.codecs.registry import load_codec


@pytest.fixture(scope="module")
def codec() -> AudioCodec:
    return load_codec("builtin")


def tiny_codec() -> BuiltinCodec:
    torch.manual_seed(0)
    return BuiltinCodec(BuiltinCodecSpec(decoder_dim=16, decoder_depth=1))


def sound(num_samples: int, batch: int = 1) -> torch.Tensor:
    """Noise that swells and fades, with a tone."""
    time_axis = torch.arange(num_samples) / 16_000
    noise = torch.randn(batch, num_samples, generator=torch.Generator().manual_seed(1))
    return 0.1 * noise * (6 * time_axis).sin() + 0.1 * (2 * math.pi * 440 * time_axis).sin()


def test_shapes_at_whole_and_partial_latent_frames(codec):
    for num_samples, num_frames in [(1, 1), (640, 1), (641, 2), (16_000, 25), (163_840, 256)]:
        waveform = sound(num_samples, batch=2)
        moments = codec.encode(waveform)
        assert codec.latent_frames(num_samples) == num_frames
        assert moments.shape == (2, 128, num_frames, 1)
        assert codec.decode(moments[:, :64]).shape == (2, num_frames * 640)


def test_std_is_a_small_constant(codec):
    std = codec.encode(sound(16_000))[:, 64:]
    assert (std == std.flatten()[0]).all()
    torch.testing.assert_close(std.flatten()[0], 0.05 * codec.latent_std)


def test_decoding_is_deterministic_and_seeded(codec):
    latents = codec.encode(sound(16_000))[:, :64]
    assert torch.equal(codec.decode(latents), codec.decode(latents))
    seeded = [codec.decode(latents, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(seeded[0], codec.decode(latents))
    assert torch.equal(seeded[0], seeded[1])
    assert not torch.equal(seeded[0], seeded[2])


def test_reconstruction_keeps_the_spectrogram_and_silence_stays_silent(codec):
    for waveform in (sound(32_000), torch.randn(1, 32_000, generator=torch.Generator().manual_seed(2)) * 0.05):
        decoded = codec.decode(codec.encode(waveform)[:, :64])
        difference = (codec.mel_patches(decoded) - codec.mel_patches(waveform)).abs().mean()
        assert difference < 0.4  # two draws of white noise differ by 0.4
    silence = codec.decode(codec.encode(torch.zeros(1, 32_000))[:, :64])
    assert silence.square().mean().sqrt() < 10 ** (-55 / 20)


def test_ten_seconds_decode_in_less_than_one(codec):
    latents = codec.encode(sound(160_000))[:, :64]
    codec.decode(latents)
    seconds = []
    for _ in range(3):
        start = time.process_time()  # of all threads together: what else runs on the machine does not count
        codec.decode(latents)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1.0


def test_linear_latents_invert_and_balance_the_channels():
    codec = tiny_codec()
    waveforms = [sound(160_000)[0], 0.1 * torch.randn(160_000, generator=torch.Generator().manual_seed(3))]
    codec.fit_latents(waveforms)
    latents = torch.cat([codec.latent_mean(w[None]) for w in waveforms], dim=2)[0, :, :, 0]  # (C, H)
    torch.testing.assert_close(latents.mean(dim=1), torch.zeros(64), atol=2e-3, rtol=0)
    torch.testing.assert_close(latents.var(dim=1, correction=0), codec.eigenvalues.sqrt(), atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(latents.var(dim=1, correction=0).mean().sqrt(), codec.latent_std, atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(codec.pca_basis @ codec.pca_basis.T, torch.eye(64), atol=1e-5, rtol=0)
    some = torch.randn(1, 64, 5, 1)
    mel = codec.decode_mel(some)  # (1, F, M)
    patches = mel.transpose(1, 2).reshape(1, 5, 256) - codec.pca_mean
    back = (patches @ codec.pca_basis.T / codec.eigenvalues**0.25).transpose(1, 2)[..., None]
    torch.testing.assert_close(back, some, atol=1e-3, rtol=1e-3)


def test_digital_silence_equals_faint_noise():
    codec = tiny_codec()
    noise = 1e-3 * torch.randn(1, 160_000, generator=torch.Generator().manual_seed(4))
    silent = codec.mel_patches(torch.zeros(1, 160_000))
    assert torch.isfinite(silent).all()
    # Floor and noise together are sqrt(2) of the floor alone.
    assert abs((codec.mel_patches(noise) - silent).mean() - math.log(2) / 2) < 0.05


def test_untrained_decoder_plays_noise_of_the_given_level():
    decoder = NoiseExcitedDecoder(num_mels=64, hop=160, sample_rate=16_000, dim=16, depth=1)
    torch.nn.init.zeros_(decoder.proj_out.weight)
    waveform = decoder(
        torch.zeros(1, 64, 100), torch.full((1, 64, 100), math.log(0.1)), torch.Generator().manual_seed(0)
    )
    assert abs(waveform.std() - 0.1) < 0.005


def test_inverse_transform_inverts_the_transform():
    decoder = NoiseExcitedDecoder(num_mels=64, hop=160, sample_rate=16_000, dim=16, depth=1)
    waveform = torch.randn(1, 16_000)
    padded = torch.nn.functional.pad(waveform, (176, 176))
    spectrum = decoder._noise_spectrum(padded)
    torch.testing.assert_close(inverse_stft(spectrum, decoder.window, 160), waveform, atol=1e-4, rtol=1e-4)


def test_correction_gives_back_the_mel_of_the_latents_and_one_step_of_it_is_the_default(codec):
    assert codec.spec.mel_corrections == 1
    waveform, generator = sound(32_000), torch.Generator().manual_seed(0)
    mel = codec.decode_mel(codec.encode(waveform)[:, :64])
    drawn = codec.decoder(mel, codec.excess_level(mel), generator).detach()
    once = codec.correct_mel(drawn, mel)
    errors = [(codec.with_floor(codec.log_mel(x)) - mel).abs().mean() for x in (drawn, once)]
    assert errors[1] < 0.8 * errors[0]
    assert torch.equal(once, codec.decode(codec.encode(waveform)[:, :64], torch.Generator().manual_seed(0)))


def test_correction_leaves_alone_what_is_right():
    codec = tiny_codec()
    waveform = sound(16_000)
    corrected = codec.correct_mel(waveform, codec.with_floor(codec.log_mel(waveform)))
    torch.testing.assert_close(corrected, waveform, atol=1e-4, rtol=1e-4)


def test_mel_interpolation_is_a_partition_of_unity():
    weights = mel_interpolation(64, 257, 16_000)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(257))
    assert (weights >= 0).all()


def test_saved_codec_loads_and_identity_covers_the_latents_alone(tmp_path):
    codec = tiny_codec()
    codec.fit_latents([sound(320_000)[0]])
    codec.save_pretrained(tmp_path)
    loaded = load_codec(str(tmp_path))
    assert loaded.identity == codec.identity
    waveform = sound(8000)
    assert torch.equal(loaded.encode(waveform), codec.encode(waveform))
    with torch.no_grad():
        loaded.decoder.proj_out.bias += 1
    assert loaded.identity == codec.identity
    loaded.spec.mel_corrections = 1
    assert loaded.identity == codec.identity
    loaded.pca_mean += 1e-3
    assert loaded.identity != codec.identity


def test_user_errors(tmp_path):
    with pytest.raises(ValueError, match="choose builtin, audioldm"):
        load_codec("encodec")
    (tmp_path / "config.json").write_text(json.dumps({"codec": "other"}))
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        load_codec(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="does not describe"):
        load_codec(str(tmp_path))
    with pytest.raises(ValueError, match="too few to fit"):
        tiny_codec().fit_latents([sound(16_000)[0]])
