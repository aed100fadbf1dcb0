"""Precomputing: exact contents, restart without a trace, rejects with reasons, statistics in closed form."""

import json
import math

import pytest
import soundfile
import torch

from impact_pl.audio import audio_seconds, load_audio, save_audio
from impact_pl.codecs.base import AudioCodec
from impact_pl.config import PrecomputeConfig
from impact_pl.data.manifest import Record, write_manifest
from impact_pl.data.shards import LatentDataset
from impact_pl.precompute import segments
from impact_pl.precompute.precompute import Precomputer
from impact_pl.precompute.segments import plan_segments, usable_segments
from impact_pl.precompute.statistics import LatentSums, latent_statistics
from impact_pl.text_encoders.base import TextEncoder, TextFeatures

RATE = 1000
CAPTIONS = ["ab", None, "abcdef", "ab", "c"]


class FramingCodec(AudioCodec):
    """Latents are the waveform itself, cut into frames of ten samples: C = 10, W = 1, std 1/8."""

    name, identity = "framing", "0123456789abcdef"
    sample_rate, samples_per_latent, latent_channels, latent_width = RATE, 10, 10, 1
    stop_after = -1  # batches until Ctrl-C

    def encode(self, waveform):
        if self.stop_after == 0:
            raise KeyboardInterrupt
        self.stop_after -= 1
        frames = waveform.unflatten(1, (-1, 10)).transpose(1, 2)[..., None]  # (B, C, H, W)
        return torch.cat([frames, torch.full_like(frames, 0.125)], dim=1)

    def decode(self, latents, generator=None):
        return latents[..., 0].transpose(1, 2).flatten(1)


class LetterEncoder(TextEncoder):
    """Two features: the letters' codes (at most four), and the length."""

    name, identity = "letters", "fedcba9876543210"
    features = {"letters": (4, 1), "length": (1, 2)}

    def encode(self, captions):
        letters, mask = torch.zeros(len(captions), 4, 1), torch.zeros(len(captions), 5, dtype=torch.bool)
        for row, caption in enumerate(captions):
            codes = torch.tensor([float(ord(letter)) for letter in caption[:4]])
            letters[row, : len(codes), 0] = codes
            mask[row, : len(codes)] = True
        mask[:, 4] = True
        length = torch.tensor([[[float(len(caption))] * 2] for caption in captions])
        return TextFeatures({"letters": letters, "length": length}, mask)


def noise(seconds: float, seed: int) -> torch.Tensor:
    return 0.9 * (2 * torch.rand(round(seconds * RATE), generator=torch.Generator().manual_seed(seed)) - 1)


@pytest.fixture
def config(tmp_path):
    """Ten train records (one of 2.5 s, some to be rejected) and two valid ones."""
    records = []
    for i, seconds in enumerate([0.3, 2.5, 1.0, 0.2, 1.35]):
        save_audio(tmp_path / f"{i}.wav", noise(seconds, i), RATE)
        records.append(Record(f"pack/clip {i}", f"{i}.wav", caption=CAPTIONS[i], source=f"s{i}"))
    save_audio(tmp_path / "silent.wav", torch.full((500,), 5e-4), RATE)
    save_audio(tmp_path / "short.wav", noise(0.05, 9), RATE)
    soundfile.write(tmp_path / "nan.wav", [0.5, math.nan] * 300, RATE, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("this is not audio")
    records += [Record(name, f"{name}.wav") for name in ("silent", "short", "nan", "text", "gone")]
    records += [Record(f"v{i}", f"{i}.wav", start=0.1, duration=0.15, caption="v", split="valid") for i in range(2)]
    write_manifest(tmp_path / "m.jsonl", records)
    return PrecomputeConfig(
        manifest=str(tmp_path / "m.jsonl"),
        out=str(tmp_path / "out"),
        clip_seconds=1.0,
        samples_per_shard=3,
        batch_size=2,
    )


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_samples_hold_the_segments(config, tmp_path, capsys):
    Precomputer(config, FramingCodec(), LetterEncoder()).run()
    assert "train 6 samples, valid 2 samples of 1 s; 5 rejected" in capsys.readouterr().out
    dataset = LatentDataset(tmp_path / "out" / "train")
    starts = {0: [(0, 0.3)], 1: [(0, 1), (1, 1)], 2: [(0, 1)], 3: [(0, 0.2)], 4: [(0, 1)]}  # 4's rest is below 1 s
    expected = [(i, start, length) for i, spans in starts.items() for start, length in spans]
    assert [dataset[j]["key"] for j in range(len(dataset))] == [
        f"{i:06d}-{start:03d}-pack-clip-{i}" for i, start, _ in expected
    ]
    for sample, (i, start, length) in zip((dataset[j] for j in range(len(dataset))), expected, strict=True):
        wave = torch.zeros(RATE)
        part = load_audio(tmp_path / f"{i}.wav", RATE, start, length)
        wave[: len(part)] = part
        decoded = FramingCodec().decode(sample["moments"][None, :10])[0]
        assert (decoded - wave).abs().max() < 1e-3  # 16-bit floats
        assert sample["moments"][10:].eq(0.125).all()
    assert dataset[0]["text"]["letters"].flatten().tolist() == [97, 98, 0, 0]
    assert dataset[0]["text_mask"].tolist() == [True, True, False, False, True]
    assert dataset[3]["text"]["length"].flatten().tolist() == [6, 6]
    assert dataset[1]["caption"] == ""
    assert not dataset[1]["text_mask"].any()
    assert dataset.index.latents["shape"] == [10, 100, 1]
    valid = LatentDataset(tmp_path / "out" / "valid")
    assert torch.equal(valid[0]["moments"][:10, :15, 0].T.flatten(), noise_as_stored(tmp_path / "0.wav")[100:250])
    assert valid.index.latents == dataset.index.latents  # the train split's statistics


def noise_as_stored(path):
    return load_audio(path, RATE).half().float()


def test_rejects_name_the_reason(config, tmp_path):
    Precomputer(config, FramingCodec(), None).run()
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    reasons = {line["id"]: line["reason"] for line in lines}
    assert list(reasons) == ["silent", "short", "nan", "text", "gone"]
    assert reasons["silent"] == "silent: its peak is below 0.001"
    assert reasons["short"] == "too short: 0.050 s, below 0.1 s"
    assert "NaN or infinite" in reasons["nan"]
    assert "cannot be read as audio" in reasons["text"]
    assert "no such audio file" in reasons["gone"]
    assert LatentDataset(tmp_path / "out" / "train").index.text_encoder is None


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_an_interrupted_run_ends_with_the_same_bytes(config, tmp_path, capsys, stop_after):
    Precomputer(config, FramingCodec(), LetterEncoder()).run()
    undisturbed = contents(tmp_path / "out")
    config.out = str(tmp_path / "again")
    codec = FramingCodec()
    codec.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        Precomputer(config, codec, LetterEncoder()).run()
    assert not list((tmp_path / "again").rglob("index.json"))
    assert not list((tmp_path / "again").rglob("*.partial"))
    Precomputer(config, FramingCodec(), LetterEncoder()).run()
    assert contents(tmp_path / "again") == undisturbed
    stopped = FramingCodec()
    stopped.stop_after = 0  # nothing is encoded any more
    capsys.readouterr()
    Precomputer(config, stopped, LetterEncoder()).run()
    assert "nothing to do, all shards are there (samples: train 6, valid 2)" in capsys.readouterr().out
    assert contents(tmp_path / "again") == undisturbed


def test_a_lost_or_truncated_shard_is_made_again(config, tmp_path):
    Precomputer(config, FramingCodec(), None).run()
    undisturbed = contents(tmp_path / "out")
    shard = tmp_path / "out" / "train" / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:600])
    (tmp_path / "out" / "valid" / "000000.tar").unlink()
    Precomputer(config, FramingCodec(), None).run()
    assert contents(tmp_path / "out") == undisturbed


def test_other_inputs_are_refused(config, tmp_path):
    Precomputer(config, FramingCodec(), None).run()
    with pytest.raises(ValueError, match=r"was begun with text_encoder None, not letters.*delete"):
        Precomputer(config, FramingCodec(), LetterEncoder()).run()
    other = FramingCodec()
    other.identity = "another"
    with pytest.raises(ValueError, match="was begun with codec framing 0123456789abcdef, not framing another"):
        Precomputer(config, other, None).run()
    run_note = tmp_path / "out" / "run.json"
    noted = json.loads(run_note.read_text())
    assert noted["device"] == "cpu, float32"
    run_note.write_text(json.dumps(noted | {"device": "cuda, TF32"}))
    with pytest.raises(ValueError, match="was begun with device cuda, TF32, not cpu, float32"):
        Precomputer(config, FramingCodec(), None).run()
    del noted["device"]  # as an earlier version wrote it
    run_note.write_text(json.dumps(noted))
    Precomputer(config, FramingCodec(), None).run()
    config.clip_seconds = 0.5
    with pytest.raises(ValueError, match=r"was begun with clip_seconds 1\.0, not 0\.5: choose another out="):
        Precomputer(config, FramingCodec(), None).run()
    config.clip_seconds = 1.0
    write_manifest(tmp_path / "m.jsonl", [Record("x", "0.wav")])
    with pytest.raises(ValueError, match="was begun with manifest"):
        Precomputer(config, FramingCodec(), None).run()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("clip_seconds", 0.996, r"not a multiple of 0\.01 s.*the nearest is 1"),
        ("clip_seconds", -1.0, "must be above 0"),
        ("clip_seconds", math.nan, "must be above 0"),
        ("padding", "loop", "choose silence or repeat"),
        ("samples_per_shard", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
    ],
)
def test_impossible_settings_are_refused(config, key, value, message):
    setattr(config, key, value)
    with pytest.raises(ValueError, match=message):
        Precomputer(config, FramingCodec(), None)


def test_nothing_usable_is_an_error_with_the_first_reason(config, tmp_path):
    write_manifest(tmp_path / "m.jsonl", [Record("gone", "gone.wav"), Record("short", "short.wav")])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"not one usable sample .*rejected\.jsonl.*no such audio file"):
            Precomputer(config, FramingCodec(), None).run()
    assert not list((tmp_path / "out").rglob("index.json"))


def test_a_test_set_alone_has_its_own_statistics(config, tmp_path):
    write_manifest(tmp_path / "m.jsonl", [Record("a", "0.wav", split="test")])
    Precomputer(config, FramingCodec(), None).run()
    assert LatentDataset(tmp_path / "out" / "test").index.latents["std"] > 0


def test_statistics_in_closed_form(config, tmp_path):
    Precomputer(config, FramingCodec(), None).run()
    dataset = LatentDataset(tmp_path / "out" / "train")
    means = torch.stack([dataset[i]["moments"][:10] for i in range(len(dataset))]).double()  # (B, C, H, W)
    center = means.mean(dim=(0, 2, 3))
    variance = ((means - center[:, None, None]) ** 2).mean() + 0.125**2
    assert torch.allclose(torch.tensor(dataset.index.latents["mean"], dtype=torch.float64), center, atol=1e-12)
    assert dataset.index.latents["std"] == pytest.approx(variance.sqrt().item(), rel=1e-9)


def test_statistics_add_up():
    generator = torch.Generator().manual_seed(0)
    samples = [torch.randn(4, 5, 2, generator=generator).abs() for _ in range(6)]
    whole = latent_statistics([LatentSums.of(samples, 2)])
    parts = latent_statistics([LatentSums.of(samples[:1], 2), LatentSums.of([], 2), LatentSums.of(samples[1:], 2)])
    assert parts == (pytest.approx(whole[0], rel=1e-12), pytest.approx(whole[1], rel=1e-12))
    with pytest.raises(ValueError, match="do not vary"):
        latent_statistics([LatentSums.of([torch.zeros(4, 5, 2)], 2)])


@pytest.mark.parametrize(
    ("file_seconds", "start", "duration", "expected"),
    [
        (3.0, 0.0, None, [(0, 1), (1, 1), (2, 1)]),
        (2.3, 0.0, None, [(0, 1), (1, 1)]),
        (0.4, 0.0, None, [(0, 0.4)]),
        (9.0, 5.0, 2.0, [(5, 1), (6, 1)]),
        (5.5, 5.0, 2.0, [(5, 0.5)]),
    ],
)
def test_segments(file_seconds, start, duration, expected):
    spans = plan_segments(Record("a", "a.wav", start, duration), file_seconds, 1.0)
    assert spans == [pytest.approx(span) for span in expected]


def test_long_recordings_are_read_by_parts_with_the_same_result(tmp_path, monkeypatch):
    save_audio(tmp_path / "a.wav", noise(5.3, 0), RATE)
    record = Record("a", str(tmp_path / "a.wav"), start=0.5)
    at_once = [segment.waveform for segment in usable_segments(0, record, 1.0, RATE, [])]
    monkeypatch.setattr(segments, "LONG_SECONDS", 0.0)
    by_parts = [segment.waveform for segment in usable_segments(0, record, 1.0, RATE, [])]
    assert len(at_once) == 4
    assert all(torch.equal(one, other) for one, other in zip(at_once, by_parts, strict=True))


def test_what_follows_a_short_recording(tmp_path):
    save_audio(tmp_path / "short.wav", torch.linspace(0.1, 0.5, 400), RATE)
    record = Record("a", str(tmp_path / "short.wav"))
    [silence] = usable_segments(0, record, 1.0, RATE, [])
    [repeat] = usable_segments(0, record, 1.0, RATE, [], "repeat")
    sound = silence.waveform[:400]
    torch.testing.assert_close(sound, torch.linspace(0.1, 0.5, 400), atol=1e-4, rtol=0)
    assert torch.equal(silence.waveform, torch.cat([sound, torch.zeros(600)]))
    assert torch.equal(repeat.waveform, torch.cat([sound, sound, torch.zeros(200)]))
    whole = next(usable_segments(0, record, 0.3, RATE, [], "repeat"))
    assert torch.equal(whole.waveform, sound[:300])


def test_a_rest_of_a_second_is_kept():
    assert plan_segments(Record("a", "a.wav"), 6.0, 2.5) == [(0.0, 2.5), (2.5, 2.5), (5.0, 1.0)]
    assert plan_segments(Record("a", "a.wav"), 5.9, 2.5) == [(0.0, 2.5), (2.5, 2.5)]
    with pytest.raises(ValueError, match=r"too short: 0\.000 s"):
        plan_segments(Record("a", "a.wav", start=7.0), 5.9, 2.5)


def test_a_header_that_claims_too_much_is_not_believed(tmp_path, monkeypatch):
    """An MP3 that was cut off still has the length of the whole in its header."""
    soundfile.write(tmp_path / "whole.mp3", noise(20, 0).repeat_interleave(16).numpy(), 16_000, format="MP3")
    content = (tmp_path / "whole.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(content[: len(content) // 4])
    assert audio_seconds(tmp_path / "cut.mp3") > 19
    record, rejects = Record("a", str(tmp_path / "cut.mp3")), []
    starts = [segment.start for segment in usable_segments(0, record, 1.5, 16_000, rejects)]
    assert starts == [0, 1.5, 3]
    assert not rejects
    monkeypatch.setattr(segments, "LONG_SECONDS", 0.0)  # read a segment at a time: the first that is not there ends it
    assert len(list(usable_segments(0, record, 1.5, 16_000, rejects))) == 4
    assert [reject.reason.partition(": ")[2] for reject in rejects] == [
        "holds no audio samples at 6 s: it ends earlier than its header says"
    ]


@pytest.mark.parametrize(("name", "options"), [("mp3", {"format": "MP3"}), ("flac", {}), ("ogg", {})])
def test_reading_is_linear_in_the_length_of_a_recording(tmp_path, monkeypatch, name, options):
    """To seek in an MP3 decodes everything before: a sample counts as decoded when it is read or sought over."""
    decoded = 0

    class Counting(soundfile.SoundFile):
        def seek(self, frames, whence=soundfile.SEEK_SET):
            nonlocal decoded
            if whence == soundfile.SEEK_SET and frames != self.tell():  # SoundFile.read ends with a seek to where it is
                decoded += frames
            return super().seek(frames, whence)

        def read(self, *args, **kwargs):
            nonlocal decoded
            samples = super().read(*args, **kwargs)
            decoded += len(samples)
            return samples

    monkeypatch.setattr(segments, "LONG_SECONDS", 0.0)
    costs = []
    for seconds in (10, 40):
        path = tmp_path / f"{seconds}.{name}"
        soundfile.write(path, 0.3 * noise(seconds, 0).repeat_interleave(11).numpy(), 11_025, **options)
        with monkeypatch.context() as patch:
            patch.setattr(soundfile, "SoundFile", Counting)
            decoded = 0
            found = list(usable_segments(0, Record("a", str(path)), 0.97, RATE, []))
        assert len(found) >= seconds
        costs.append(decoded / soundfile.info(path).frames)
    assert max(costs) <= 1
