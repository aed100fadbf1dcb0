"""YAMNet's front end and network, and the cache of features."""

import numpy as np
import pytest
import torch

from impact_pl.audio import load_audio, save_audio
from impact_pl.data.manifest import Record
from impact_pl.evaluation.cache import _read_entry, extract
from impact_pl.evaluation.networks.yamnet import (
    LOG_OFFSET,
    YamNet,
    YamNetFeatures,
    dither,
    log_mel_patches,
    pad_to_patches,
    patch_levels,
)

pytest.importorskip("onnxruntime", reason="extra 'eval' is not installed")


@pytest.fixture(scope="module")
def yamnet() -> YamNet:
    return YamNet()


def tone(frequency: float, seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(16_000 * seconds)) / 16_000)).astype(np.float32)


@pytest.mark.parametrize(
    ("num_samples", "num_patches"), [(100, 1), (15_600, 1), (15_601, 2), (23_280, 2), (23_281, 3), (81_920, 10)]
)
def test_one_patch_every_480_ms_and_the_last_one_is_padded(num_samples, num_patches):
    """As in YAMNet's ``features.pad_waveform``: 1 + ceil((samples - 15,600) / 7,680) patches."""
    padded = pad_to_patches(np.ones(num_samples, np.float32))
    assert log_mel_patches(padded).shape == (num_patches, 96, 64)
    assert patch_levels(padded).shape == (num_patches,)
    assert padded.sum() == num_samples  # followed by zeros alone
    assert not padded[num_samples:].any()


def test_a_sound_in_the_last_patch_is_heard(yamnet):
    """The last 0.3 s of a 2.22 s sound are beyond the last whole patch."""
    sound = np.zeros(15_600 + 2 * 7_680 + 4_800, np.float32)
    sound[-4_800:] = tone(1000, 0.3)
    features = yamnet(sound)
    assert len(features.embeddings) == 4
    assert features.levels.argmax() == 3


def test_silence_is_the_log_offset():
    np.testing.assert_allclose(log_mel_patches(np.zeros(16_000, np.float32)), np.log(LOG_OFFSET), rtol=1e-6)


def test_a_tone_peaks_in_its_mel_band():
    hertz_to_mel = lambda hertz: 1127 * np.log1p(hertz / 700)  # noqa: E731
    centres = np.linspace(hertz_to_mel(125), hertz_to_mel(7500), 66)[1:-1]
    patch = log_mel_patches(tone(2000, 1.0))[0]
    assert abs(patch.mean(0).argmax() - np.abs(centres - hertz_to_mel(2000)).argmin()) <= 1


def test_dither_is_60_db_below_full_scale_and_the_same_for_every_sound():
    noise = dither(np.zeros(100_000, np.float32))
    assert 20 * np.log10(noise.std()) == pytest.approx(-60, abs=0.1)
    np.testing.assert_array_equal(dither(np.zeros(50, np.float32)), noise[:50])


def test_network_hears_what_it_should(yamnet):
    features = yamnet(tone(1000, 2.0))
    assert features.embeddings.shape == (4, 1024)
    assert features.logits.shape == (4, 521)
    assert len(yamnet.class_names) == 521
    assert (features.embeddings >= 0).all()  # a ReLU precedes the average pool
    assert yamnet.class_names[features.scores.mean(0).argmax()] in {
        "Sine wave",
        "Beep, bleep",
        "Tuning fork",
        "Dial tone",
    }


def test_padding_leaves_the_classes_alone_but_not_the_embedding():
    """Class scores come from the patches that sound; the embedding's mean takes the padding in."""
    embeddings, logits = np.arange(6.0).reshape(3, 2), np.array([[0.0, 2.0], [0.0, 2.0], [9.0, 9.0]])
    features = YamNetFeatures(embeddings, logits, levels=np.array([-20.0, -59.0, -61.0]))
    np.testing.assert_allclose(features.clip_scores, [0.5, 1 / (1 + np.exp(-2))])
    np.testing.assert_allclose(features.clip_embedding, [2.0, 3.0])
    silent = YamNetFeatures(embeddings, logits, levels=np.full(3, -120.0))
    np.testing.assert_allclose(silent.clip_scores, silent.scores.mean(0))


def test_levels_are_decibels_of_full_scale():
    np.testing.assert_allclose(patch_levels(tone(1000, 2.0)), 20 * np.log10(0.5 / np.sqrt(2)), atol=0.01)
    np.testing.assert_allclose(patch_levels(np.zeros(15_600, np.float32)), -120)


def test_a_record_names_a_part_of_a_file(yamnet, tmp_path):
    both = np.concatenate([tone(440, 1.0), tone(3000, 1.0)])
    save_audio(tmp_path / "both.wav", torch.from_numpy(both), 16_000)
    record = Record("second", str(tmp_path / "both.wav"), start=1.0, duration=1.0)
    (part,) = extract(yamnet, [record])
    direct = yamnet(tone(3000, 1.0))
    assert part.embeddings.shape == direct.embeddings.shape == (2, 1024)
    np.testing.assert_allclose(part.clip_scores, direct.clip_scores, atol=0.02)  # 16-bit rounding of the file


def test_batching_changes_nothing(yamnet):
    """The graph holds no constant batch of one: patches together give what patches alone give."""
    waveform = np.random.default_rng(1).standard_normal(40_000).astype(np.float32) * 0.1
    together = yamnet(waveform)
    patches = log_mel_patches(dither(pad_to_patches(waveform)))
    for index in range(len(patches)):
        embedding, logits = yamnet._session.run(["embedding", "logits"], {"audio": patches[index : index + 1, None]})
        np.testing.assert_allclose(embedding[0], together.embeddings[index], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(logits[0], together.logits[index], rtol=1e-4, atol=1e-4)


def test_tensors_and_arrays_are_the_same(yamnet):
    waveform = tone(440, 1.0)
    np.testing.assert_array_equal(yamnet(torch.from_numpy(waveform)).logits, yamnet(waveform).logits)


@pytest.mark.parametrize("shape", [(0,), (2, 16_000)])
def test_wrong_shapes_are_named(yamnet, shape):
    with pytest.raises(ValueError, match="mono waveform"):
        yamnet(np.zeros(shape, np.float32))


def test_short_sounds_are_padded_as_asked_for(yamnet, tmp_path):
    save_audio(tmp_path / "a.wav", torch.from_numpy(tone(440, 1.0)), 16_000)
    sound, cache = load_audio(tmp_path / "a.wav").numpy(), tmp_path / "cache"
    (silence,) = extract(yamnet, [tmp_path / "a.wav"], 2.0, cache)
    (repeated,) = extract(yamnet, [tmp_path / "a.wav"], 2.0, cache, padding="repeat")
    assert len(list(cache.iterdir())) == 2
    padded = np.concatenate([sound, np.zeros_like(sound)]), np.concatenate([sound, sound])
    for features, wanted in zip((silence, repeated), padded, strict=True):
        np.testing.assert_array_equal(features.logits, yamnet(wanted).logits)
    assert np.abs(silence.logits - repeated.logits).max() > 1


def test_cache_is_by_content_and_survives_damage(yamnet, tmp_path):
    cache = tmp_path / "cache"
    save_audio(tmp_path / "a.wav", torch.from_numpy(tone(440, 1.0)), 16_000)
    (first,) = extract(yamnet, [tmp_path / "a.wav"], cache_dir=cache)
    (tmp_path / "a.wav").rename(tmp_path / "b.wav")
    (entry,) = cache.iterdir()
    (again,) = extract(yamnet, [tmp_path / "b.wav"], cache_dir=cache)
    assert list(cache.iterdir()) == [entry]  # a renamed file is found again
    np.testing.assert_array_equal(first.logits, again.logits)

    entry.write_bytes(entry.read_bytes()[:200])
    (repaired,) = extract(yamnet, [tmp_path / "b.wav"], cache_dir=cache)
    np.testing.assert_array_equal(first.logits, repaired.logits)

    content = entry.read_bytes()
    for position in range(0, len(content), 97):  # one flipped bit, in headers or in data
        entry.write_bytes(content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :])
        found = _read_entry(entry, YamNetFeatures)
        assert found is None or np.array_equal(found.logits, first.logits)

    save_audio(tmp_path / "b.wav", torch.from_numpy(tone(880, 1.0)), 16_000)
    (other,) = extract(yamnet, [tmp_path / "b.wav"], cache_dir=cache)
    assert len(list(cache.iterdir())) == 2
    assert not np.array_equal(first.logits, other.logits)


def test_duration_fits_every_sound(yamnet, tmp_path):
    seen = []
    for name, seconds in [("short", 0.5), ("long", 4.0)]:
        save_audio(tmp_path / f"{name}.wav", torch.from_numpy(tone(440, seconds)), 16_000)
    features = extract(
        yamnet, [tmp_path / "short.wav", tmp_path / "long.wav"], duration=2.0, progress=lambda *step: seen.append(step)
    )
    assert [len(each.embeddings) for each in features] == [4, 4]
    assert seen == [(1, 2), (2, 2)]
