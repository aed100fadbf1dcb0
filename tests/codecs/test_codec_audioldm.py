"""AudioLDM's codec: its mel front end against its own definition, and its VAE and vocoder in the published format."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from impact_pl.codecs.audioldm import AudioLDMMel
from impact_pl.codecs.registry import load_codec
from tests.helpers.published import save_audioldm, vae_config, vocoder

pytest.importorskip("diffusers", reason="the extra [audioldm] is not installed")
GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "audioldm_mel.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_audioldm(tmp_path_factory.mktemp("audioldm"))


@pytest.fixture(scope="module")
def codec(folder):
    return load_codec(f"audioldm:{folder}")


def slaney_hz(mel: np.ndarray) -> np.ndarray:
    """Slaney's mel scale: linear, 200/3 Hz a mel, up to 1000 Hz (15 mel), then 27 mel for a factor of 6.4."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))


def stated_anew(waveform: np.ndarray) -> np.ndarray:
    """AudioLDM's front end in float64 and by its definition alone: (S,) -> (M + 1, 64)."""
    highest = 15 + 27 * math.log(8000 / 1000) / math.log(6.4)
    edges = slaney_hz(np.linspace(0, highest, 66))
    bins = np.arange(513) * 16_000 / 1024
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.clip(np.minimum(rising, falling), 0, None) * (2 / (edges[2:] - edges[:-2]))[:, None]  # of area 1
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    padded = np.pad(waveform.astype(np.float64), 512, mode="reflect")
    frames = np.stack([padded[start : start + 1024] for start in range(0, len(padded) - 1023, 160)])
    magnitude = np.abs(np.fft.rfft(frames * window))
    return np.log(np.maximum(magnitude @ filters.T, 1e-5))


def sounds() -> dict[str, torch.Tensor]:
    t = torch.arange(16_000) / 16_000
    noise = torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    return {
        "recording": GOLDEN["waveform"],
        "sweep": 0.5 * (2 * math.pi * 3500 * t * t).sin(),
        "noise": (0.2 * noise).clamp(-1, 1),
        "silence": torch.zeros(16_000),
    }


@pytest.mark.parametrize("name", ["recording", "sweep", "noise", "silence"])
def test_the_mel_front_end_is_what_its_definition_says(name):
    waveform = sounds()[name]
    mel = AudioLDMMel()(waveform[None])[0]  # (M, F)
    expected = torch.from_numpy(stated_anew(waveform.numpy()))[:-1].float()
    assert mel.shape == expected.shape == (len(waveform) // 160, 64)
    torch.testing.assert_close(mel, expected, atol=1e-2, rtol=0)  # float32 shows below a tone only
    torch.testing.assert_close(mel[expected > -8], expected[expected > -8], atol=2e-4, rtol=0)


def test_the_mel_front_end_gives_the_reference_s_numbers_on_a_real_recording():
    mel = AudioLDMMel()(GOLDEN["waveform"][None])[0]
    torch.testing.assert_close(mel, GOLDEN["mel"][:-1], atol=1e-3, rtol=0)
    assert (mel - GOLDEN["mel"][:-1]).abs().mean() < 1e-5


def test_ten_seconds_are_256_by_16_latents_of_8_channels(codec):
    waveform = 0.1 * torch.randn(2, 163_840, generator=torch.Generator().manual_seed(0))
    moments = codec.encode(waveform)
    assert moments.shape == (2, 16, 256, 16)
    shape = (codec.latent_channels, codec.latent_frames(163_840), codec.latent_width)
    assert (codec.sample_rate, codec.samples_per_latent, shape) == (16_000, 640, (8, 256, 16))
    mean, std = moments.chunk(2, dim=1)
    posterior = codec.vae.encode(codec.mel(waveform)[:, None]).latent_dist
    assert torch.equal(mean, posterior.mean)
    assert torch.equal(std, posterior.std)
    assert torch.isfinite(moments.half()).all()
    assert (moments[:, 8:].half() > 0).all()


def test_partial_frames_are_filled_with_silence_and_decoding_has_the_asked_length(codec):
    for num_samples, num_frames in [(1, 1), (640, 1), (641, 2), (16_000, 25)]:
        waveform = 0.1 * torch.randn(1, num_samples, generator=torch.Generator().manual_seed(0))
        moments = codec.encode(waveform)
        assert moments.shape == (1, 16, num_frames, 16)
        decoded = codec.decode(moments[:, :8])
        assert decoded.shape == (1, num_frames * 640)
        assert decoded.abs().max() <= 1


def test_decoding_is_vae_then_vocoder_and_draws_nothing(codec):
    latents = torch.randn(2, 8, 4, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mel = codec.vae.decode(latents).sample
        whole = codec.vocoder.network(mel[:, 0])
    assert whole.shape == (2, 16 * 160 + 32)  # what is cut off
    assert torch.equal(codec.decode(latents), whole[:, :2560])
    assert torch.equal(codec.decode(latents, torch.Generator().manual_seed(1)), codec.decode(latents))


def test_decoding_in_bf16_differs_by_rounding_and_leaves_the_weights(codec, folder):
    codec = load_codec(f"audioldm:{folder}")
    latents = torch.randn(2, 8, 4, 16, generator=torch.Generator().manual_seed(0))
    exact = codec.decode(latents)
    assert torch.equal(codec.decoder_in(torch.float32)(latents, None), exact)
    decode = codec.decoder_in(torch.bfloat16)
    reduced = decode(latents, torch.Generator())
    assert reduced.dtype == torch.float32
    assert reduced.shape == exact.shape
    assert not torch.equal(reduced, exact)
    assert (reduced - exact).abs().mean() < 0.03 * exact.abs().mean()
    assert torch.equal(codec.decode(latents), exact)
    assert codec.decoder_in(torch.bfloat16) is decode
    assert codec.to("cpu").decoder_in(torch.bfloat16) is not decode


def test_identity_follows_the_vae_alone_and_the_name_finds_it_again(codec, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert codec.name == f"audioldm:{folder.resolve()}"
    again = load_codec(f"audioldm:{folder.name}")
    assert (again.name, again.identity) == (codec.name, codec.identity)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / "vocoder" / "model.safetensors"
    save_file({name: value + 0.1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    assert load_codec(f"audioldm:{copy}").identity == codec.identity
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["quant_conv.bias"] += 1e-3
    save_file(weights, file, {"format": "pt"})
    assert load_codec(f"audioldm:{copy}").identity != codec.identity


def test_pytorch_files_of_older_repositories_load_as_well(codec, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    vae, hifigan = copy / "vae" / "diffusion_pytorch_model", copy / "vocoder" / "model"
    for new, old in ((vae, vae), (hifigan, hifigan.with_name("pytorch_model"))):
        torch.save(load_file(new.with_suffix(".safetensors")), old.with_suffix(".bin"))
        new.with_suffix(".safetensors").unlink()
    loaded = load_codec(f"audioldm:{copy}")
    waveform = GOLDEN["waveform"][None]
    assert torch.equal(loaded.encode(waveform), codec.encode(waveform))
    latents = codec.encode(waveform)[:, :8]
    assert torch.equal(loaded.decode(latents), codec.decode(latents))


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_mistakes_name_what_is_missing(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="write audioldm:ARGUMENT"):
        load_codec("audioldm")
    with pytest.raises(ValueError, match="/gone: no such folder"):
        load_codec("audioldm:/gone")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="hub:nobody/nothing: not found on the Hugging Face hub"):
        load_codec("audioldm:hub:nobody/nothing")
    with pytest.raises(ValueError, match=r"nobody/nothing: no such folder; .*is written hub:OWNER/NAME"):
        load_codec("audioldm:nobody/nothing")
    with pytest.raises(ValueError, match=r"vae/config\.json, vocoder/config\.json missing"):
        load_codec(f"audioldm:{tmp_path}")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    edit(copy / "vocoder" / "config.json", sampling_rate=48_000)
    with pytest.raises(ValueError, match="sampling_rate is 48000, AudioLDM's at 16 kHz is 16000"):
        load_codec(f"audioldm:{copy}")
    weights = load_file(copy / "vae" / "diffusion_pytorch_model.safetensors")
    del weights["encoder.conv_in.weight"]
    save_file(weights, copy / "vae" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"not a AutoencoderKL.*encoder\.conv_in\.weight"):
        load_codec(f"audioldm:{copy}")
    (copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="no weights there"):
        load_codec(f"audioldm:{copy}")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"needs diffusers .* pip install 'impact-pl\[audioldm\]'"):
        load_codec(f"audioldm:{folder}")


@pytest.mark.slow
def test_the_published_size_has_the_published_shapes():
    """The configuration of cvssp/audioldm's VAE and vocoder, on random weights: 10.24 s each way."""
    from diffusers import AutoencoderKL

    vae, hifigan = AutoencoderKL(**vae_config(128)).eval(), vocoder(512).eval()
    assert round(sum(p.numel() for p in vae.parameters()) / 1e6) == 55
    assert round(sum(p.numel() for p in hifigan.parameters()) / 1e6) == 55
    with torch.no_grad():
        latents = vae.encode(AudioLDMMel()(torch.zeros(1, 163_840))[:, None]).latent_dist.mean
        assert latents.shape == (1, 8, 256, 16)
        mel = vae.decode(latents).sample
        assert mel.shape == (1, 1, 1024, 64)
        assert hifigan(mel[:, 0]).shape == (1, 163_840 + 32)
