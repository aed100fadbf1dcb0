"""Loading, saving, resampling and the log-mel front end against closed forms."""

import io
import math

import numpy as np
import pytest
import soundfile
import torch

from impact_pl.audio import (
    audio_seconds,
    fit_length,
    load_audio,
    measure_level,
    resample,
    save_audio,
    within_full_scale,
)
from impact_pl.spectrogram import LogMel, spectrogram_png


def sine(frequency: float, seconds: float, sample_rate: int) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * frequency * torch.arange(round(seconds * sample_rate)) / sample_rate)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_saved_waveform_comes_back_to_sixteen_bits(tmp_path, suffix):
    waveform = sine(440, 0.3, 16_000)
    save_audio(tmp_path / f"a{suffix}", waveform, 16_000)
    loaded = load_audio(tmp_path / f"a{suffix}")
    assert loaded.shape == waveform.shape
    assert loaded.dtype == torch.float32
    assert (loaded - waveform).abs().max() <= 1 / 32768


def test_saving_clips(tmp_path):
    save_audio(tmp_path / "a.wav", torch.tensor([2.0, -2.0, 0.0]), 16_000)
    assert torch.allclose(load_audio(tmp_path / "a.wav"), torch.tensor([1.0, -1.0, 0.0]), atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 11_127, 22_050, 44_100])
def test_resampling_keeps_a_sine(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", sine(440, 0.5, rate).numpy(), rate, subtype="FLOAT")
    loaded = load_audio(tmp_path / "a.wav")
    expected = sine(440, 0.5, 16_000)
    assert abs(loaded.shape[0] - expected.shape[0]) <= 1
    middle = slice(1000, 7000)
    assert (loaded[middle] - expected[middle]).abs().max() < 0.01


def test_stereo_is_averaged_and_a_part_can_be_cut(tmp_path):
    left = sine(300, 1.0, 16_000)
    soundfile.write(tmp_path / "a.wav", np.stack([left.numpy(), np.zeros(16_000)], axis=1), 16_000, subtype="FLOAT")
    part = load_audio(tmp_path / "a.wav", start=0.25, duration=0.5)
    assert torch.allclose(part, left[4000:12000] / 2)
    assert load_audio(tmp_path / "a.wav", start=0.9, duration=5.0).shape == (1600,)


def test_resample_is_the_identity_at_the_same_rate():
    waveform = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resample(waveform, 16_000, 16_000), waveform)


def test_seconds_come_from_the_header(tmp_path):
    save_audio(tmp_path / "a.flac", torch.zeros(4000), 16_000)
    assert audio_seconds(tmp_path / "a.flac") == 0.25
    (tmp_path / "b.wav").write_text("this is not audio")
    for name in ("b.wav", "gone.wav"):
        with pytest.raises(ValueError, match=name):
            audio_seconds(tmp_path / name)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.wav: no such audio file"):
        load_audio(tmp_path / "gone.wav")
    (tmp_path / "text.wav").write_text("this is not audio")
    with pytest.raises(ValueError, match=r"text\.wav: cannot be read as audio"):
        load_audio(tmp_path / "text.wav")
    (tmp_path / "empty.wav").touch()
    with pytest.raises(ValueError, match=r"empty\.wav: cannot be read"):
        load_audio(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), 16_000)
    with pytest.raises(ValueError, match=r"zero\.wav: no audio at 0 s"):
        load_audio(tmp_path / "zero.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"nan\.wav: holds NaN"):
        load_audio(tmp_path / "nan.wav")
    save_audio(tmp_path / "short.wav", torch.zeros(160), 16_000)
    with pytest.raises(ValueError, match=r"no audio at 3 s \(the file lasts 0\.01 s\)"):
        load_audio(tmp_path / "short.wav", start=3.0)


def test_bad_saves_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown audio suffix '\.mp4'; choose one of \.wav, \.flac"):
        save_audio(tmp_path / "a.mp4", torch.zeros(10))
    with pytest.raises(ValueError, match=r"expected a mono waveform"):
        save_audio(tmp_path / "a.wav", torch.zeros(2, 10))
    with pytest.raises(ValueError, match="NaN"):
        save_audio(tmp_path / "a.wav", torch.tensor([math.nan]))
    assert list(tmp_path.iterdir()) == []


def test_fit_length_pads_with_silence_or_itself_or_cuts():
    waveform = torch.arange(1.0, 4.0)
    assert fit_length(waveform, 5).tolist() == [1, 2, 3, 0, 0]
    assert fit_length(waveform, 2).tolist() == [1, 2]
    assert fit_length(waveform, 8, "repeat").tolist() == [1, 2, 3, 1, 2, 3, 0, 0]
    assert fit_length(waveform, 2, "repeat").tolist() == [1, 2]
    assert fit_length(torch.zeros(0), 2, "repeat").tolist() == [0, 0]


def test_log_mel_has_one_frame_a_hop_and_peaks_at_the_tone():
    mel = LogMel()(torch.stack([sine(1000, 1.024, 16_000), torch.zeros(16_384)]))
    assert mel.shape == (2, 64, 102)
    assert torch.allclose(mel[1], torch.full_like(mel[1], math.log(1e-5)))
    # Slaney scale: linear below 1 kHz (200/3 Hz a mel), so 1 kHz is mel 15 of 45.245 at 8 kHz; 66 edges, 64 bins.
    top_mel = 15 + math.log(8) / (math.log(6.4) / 27)
    assert mel[0].mean(dim=-1).argmax().item() == round(15 / top_mel * 65) - 1


def test_log_mel_refuses_what_it_cannot_pad():
    with pytest.raises(ValueError, match="432"):
        LogMel()(torch.zeros(1, 432))


def test_spectrogram_is_a_png(tmp_path):
    buffer = io.BytesIO()
    spectrogram_png(sine(440, 0.5, 16_000), 16_000, buffer, title="a tone")
    assert buffer.getvalue().startswith(b"\x89PNG")
    spectrogram_png(torch.zeros(100), 16_000, tmp_path / "short.png", title="$5 and a lone {$")
    assert (tmp_path / "short.png").stat().st_size > 1000


def tone(amplitude: float, frequency: float = 440.0, seconds: float = 1.0) -> torch.Tensor:
    return amplitude * torch.sin(2 * torch.pi * frequency * torch.arange(round(16_000 * seconds)) / 16_000)


def test_levels_are_decibels_of_full_scale():
    level = measure_level(tone(0.1), 16_000)
    assert level.rms_db == pytest.approx(-23.01, abs=0.01)
    assert level.loudest_db == pytest.approx(-23.01, abs=0.1)
    assert level.peak_db == pytest.approx(-20.0, abs=0.01)
    assert level.clipped_share == 0
    assert level.warning is None


@pytest.mark.parametrize("frequency", [50.0, 440.0, 2990.0])
def test_a_full_scale_sine_is_not_clipped_and_an_overdriven_one_is(frequency):
    assert not measure_level(tone(1.0, frequency), 16_000).is_clipped
    assert measure_level(tone(1.5, frequency).clamp(-1, 1), 16_000).is_clipped


def test_a_short_blast_in_a_long_clip_is_found():
    waveform = tone(0.1, seconds=10.0)
    waveform[80_000:80_640] = 1.0  # 40 ms
    level = measure_level(waveform, 16_000)
    assert level.clipped_share >= 0.5
    assert level.warning == f"clipped: {level.clipped_share:.0%} of the samples of an 80 ms frame are at full scale"


def test_silence_is_told():
    assert measure_level(torch.zeros(16_000), 16_000).warning == "silent: its loudest 80 ms are at -120 dBFS"
    assert measure_level(tone(0.0005), 16_000).is_silent
    assert not measure_level(tone(0.002), 16_000).is_silent
    assert not measure_level(torch.cat([torch.zeros(160_000), tone(0.01, seconds=0.1)]), 16_000).is_silent
    assert measure_level(torch.ones(1), 16_000).is_clipped


def test_channels_in_antiphase_are_named(tmp_path):
    left = sine(300, 0.5, 16_000)
    soundfile.write(tmp_path / "a.wav", torch.stack([left, -left], dim=1).numpy(), 16_000)
    with pytest.raises(ValueError, match=r"a\.wav: its channels cancel each other"):
        load_audio(tmp_path / "a.wav")
    soundfile.write(tmp_path / "b.wav", torch.stack([left, -0.9 * left], dim=1).numpy(), 16_000)
    assert load_audio(tmp_path / "b.wav").abs().max() > 0.01
    soundfile.write(tmp_path / "c.wav", torch.zeros(800, 2).numpy(), 16_000)
    assert not load_audio(tmp_path / "c.wav").any()


def test_a_float_file_far_beyond_full_scale_is_refused(tmp_path):
    tone = sine(300, 0.5, 16_000)
    soundfile.write(tmp_path / "a.wav", (30_000 * tone / tone.abs().max()).numpy(), 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"its peak is 3e\+04 times full scale.*scale it to \[-1, 1\]"):
        load_audio(tmp_path / "a.wav")
    soundfile.write(tmp_path / "b.wav", (1.2 * tone / tone.abs().max()).numpy(), 16_000, subtype="FLOAT")
    assert load_audio(tmp_path / "b.wav").abs().max() == 1


def test_a_sound_beyond_full_scale_is_turned_down_and_others_stay():
    loud, quiet = torch.tensor([0.5, -4.0, 1.0]), torch.tensor([0.5, -1.0, 0.1])
    both = within_full_scale(torch.stack([loud, quiet]))
    assert torch.equal(both[0], loud / 4)
    assert torch.equal(both[1], quiet)
