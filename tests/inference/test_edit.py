"""Editing a recording with the shipped model: what stays, what is drawn, and what is refused."""

import numpy as np
import pytest
import soundfile
import torch

from impact_pl import ImpactPipeline, UserError
from impact_pl.audio import SILENT_DB, measure_level
from impact_pl.inference.blend import SILENT
from impact_pl.inference.recording import Recording
from impact_pl.inference.windows import Grid, place, scattered, split

QUICK = {"num_iterations": 4, "num_diffusion_steps": 3, "progress": False}
FADE = 0.02
RATE = 16_000


@pytest.fixture(scope="module")
def pipeline() -> ImpactPipeline:
    return ImpactPipeline.from_pretrained()


def noise(seconds=3.0, rate=RATE, channels=1, level=0.1, seed=0) -> np.ndarray:
    """White noise (S, C), quieter in each further channel, as 16-bit numbers."""
    x = np.random.default_rng(seed).standard_normal((round(seconds * rate), 1)) * level
    x = np.clip(x * 0.5 ** np.arange(channels), -1, 1)
    return np.rint(x * 32767) / 32768


def outside(regions, length, rate, fade=FADE) -> np.ndarray:
    """Mark the samples that no region and no cross-fade reaches."""
    at = np.arange(length) / rate
    return np.all([(at < a - fade - 1 / rate) | (at >= b + fade + 1 / rate) for a, b in regions], axis=0)


def test_silence_is_the_same_everywhere():
    """Blending, which runs without PyTorch, has a constant of its own."""
    assert pytest.approx(10 ** (SILENT_DB / 20)) == SILENT


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (44_100, 1), (8_000, 2), (11_127, 1)])
def test_the_rest_of_a_file_keeps_its_bits(pipeline, tmp_path, rate, channels):
    soundfile.write(tmp_path / "in.wav", noise(3, rate, channels), rate, subtype="PCM_24")
    edited = pipeline.edit(tmp_path / "in.wav", "rain falls", [(1.0, 1.7)], **QUICK)
    edited.save(tmp_path / "out.wav")
    before, _ = soundfile.read(tmp_path / "in.wav", dtype="int32", always_2d=True)
    after, after_rate = soundfile.read(tmp_path / "out.wav", dtype="int32", always_2d=True)
    assert (after_rate, after.shape) == (rate, before.shape)
    assert soundfile.info(tmp_path / "out.wav").subtype == "PCM_24"
    kept = outside([(1.0, 1.7)], len(before), rate)
    assert np.array_equal(before[kept], after[kept])
    inside = slice(round(1.05 * rate), round(1.65 * rate))
    assert (before[inside] != after[inside]).mean() > 0.99
    assert edited.regions[0] == pytest.approx((1.0, 1.7), abs=1 / rate)


def test_the_fill_has_level_and_balance_of_its_surroundings(pipeline):
    samples = noise(3, 48_000, 2)
    edited = pipeline.edit((samples.T, 48_000), "rain falls", [(1.0, 1.7)], **QUICK).waveform.double().numpy()
    inside = edited[:, round(1.05 * 48_000) : round(1.65 * 48_000)]
    left, right = np.sqrt(np.mean(inside**2, axis=1))
    assert left / right == pytest.approx(2.0, rel=0.01)
    silent_right = samples * [1, 0]
    edited = pipeline.edit((silent_right.T, 48_000), "rain falls", [(1.0, 1.7)], **QUICK).waveform
    assert not edited[1].any()


def test_the_level_is_matched_unless_told_otherwise(pipeline):
    quiet = (noise(3, level=0.01).T, RATE)
    levels = {}
    for match in (True, False):
        edited = pipeline.edit(quiet, "rain falls", [(1.0, 1.7)], match_level=match, **QUICK)
        levels[match] = measure_level(edited.waveform[0, 17_600:26_400], RATE).rms_db
    assert levels[True] != levels[False]


def test_same_seed_same_sound(pipeline):
    sound = (noise().T, RATE)
    draws = [pipeline.edit(sound, "rain falls", [(1, 1.5)], seed=seed, **QUICK).waveform for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_several_regions_with_their_own_captions(pipeline):
    sound, regions = (noise(6).T, RATE), [(4.0, 4.4, "a dog barks"), (0.5, 1.0)]
    edited = pipeline.edit(sound, "rain falls", regions, **QUICK)
    assert edited.captions == ("rain falls", "a dog barks")
    kept = outside([(0.5, 1.0), (4.0, 4.4)], 6 * RATE, RATE)
    assert np.array_equal(edited.waveform[0].numpy()[kept], noise(6)[kept, 0].astype(np.float32))
    other = pipeline.edit(sound, "rain falls", [(4.0, 4.4), (0.5, 1.0)], **QUICK).waveform
    assert torch.equal(other[:, :RATE], edited.waveform[:, :RATE])  # drawn first, in order of time
    assert not torch.equal(other[:, 4 * RATE :], edited.waveform[:, 4 * RATE :])


def test_of_a_long_file_only_a_window_is_read(pipeline, tmp_path, monkeypatch):
    with soundfile.SoundFile(tmp_path / "long.flac", "w", 8000, 1) as file:  # three hours
        block = noise(60, 8000)
        for minute in range(180):
            file.write(block * (119 <= minute <= 120))
    read = []
    original = Recording._read_original
    monkeypatch.setattr(Recording, "_read_original", lambda self, *at: read.append(at) or original(self, *at))
    edited = pipeline.edit(tmp_path / "long.flac", "rain falls", [(7200.0, 7201.0)], **QUICK)
    assert edited.duration == 10_800
    assert max(stop for _, stop in read) - min(start for start, _ in read) <= 8000 * (pipeline.max_duration + 0.1)
    with pytest.raises(UserError, match="lasts 10800 s, and at most 600 s"):
        pipeline.vary(tmp_path / "long.flac", "rain falls", **QUICK)


def test_a_long_region_is_drawn_in_turns(pipeline):
    seen = []
    sound = (noise(8).T, RATE)
    edited = pipeline.edit(sound, "rain", [(1.0, 7.0)], **QUICK | {"progress": lambda *at: seen.append(at)})
    assert seen == [(n, seen[-1][1]) for n in range(1, seen[-1][1] + 1)]
    assert len(seen) > 4
    assert edited.waveform.shape == (1, 8 * RATE)


@pytest.mark.parametrize("side", ["start", "end", "both"])
def test_extending_adds_at_its_side_only(pipeline, side, tmp_path):
    samples = noise(2)
    edited = pipeline.extend((samples.T, RATE), "rain falls", 3.0, side, **QUICK)
    before = 3 if side in ("start", "both") else 0
    assert edited.duration == 2 + 3 * (2 if side == "both" else 1)
    middle = edited.waveform[0, before * RATE :][: 2 * RATE].numpy()
    regions = [(-3.0, 0.0)] * (side != "end") + [(2.0, 5.0)] * (side != "start")
    assert edited.regions == tuple(regions)
    kept = outside(regions, 2 * RATE, RATE)
    assert np.array_equal(middle[kept], samples[kept, 0].astype(np.float32))
    edited.save(tmp_path / "out.wav")
    assert soundfile.info(tmp_path / "out.wav").frames == round(edited.duration * RATE)


def test_varying_changes_a_share(pipeline):
    samples = noise(12.0)
    edited = pipeline.vary((samples.T, RATE), "rain falls", 0.25, **QUICK)
    drawn = sum(end - start for start, end in edited.regions)
    assert drawn == pytest.approx(3.0, abs=0.1)
    kept = outside(edited.regions, len(samples), RATE)
    assert kept.mean() > 0.5
    assert np.array_equal(edited.waveform[0].numpy()[kept], samples[kept, 0].astype(np.float32))
    other = pipeline.vary((samples.T, RATE), "rain falls", 0.25, seed=1, **QUICK)
    assert other.regions != edited.regions


def test_a_loop_has_no_step_at_its_joint(pipeline):
    ramp = np.linspace(-0.5, 0.5, 3 * RATE)  # jumps by 1 when it starts again
    samples = ramp + 0.02 * noise(3)[:, 0]
    edited = pipeline.loop((samples, RATE), "rain falls", seam=0.5, **QUICK)
    looped = edited.waveform[0].numpy()
    assert abs(looped[0] - looped[-1]) < 0.2
    kept = slice(round(0.28 * RATE), round(2.72 * RATE))
    assert np.array_equal(looped[kept], samples[kept].astype(np.float32))
    assert pipeline.loop("rain falls", seconds=2, **QUICK).duration == 2
    assert pipeline.loop("rain falls", seconds=6, **QUICK).duration == 6  # longer than the model's window
    assert pipeline.loop((samples, RATE), "rain falls", seconds=2, **QUICK).duration == 2


def test_a_result_can_be_edited_again(pipeline):
    made = pipeline("rain falls", 2.0, **QUICK)
    once = pipeline.edit(made, "a dog barks", [(0.5, 1)], **QUICK)
    longer = pipeline.extend(once, "rain falls", 1.0, "start", **QUICK)
    assert pipeline.edit(longer, "rain falls", [(2.5, 3.0)], **QUICK).waveform.shape == (1, 3 * RATE)


def test_windows_show_as_much_as_they_can():
    grid = Grid(100.0, 10)
    window = place(grid, (0, 10_000), (5000, 5200), [], "x")
    assert (window.start, window.num_frames) == (4600, 10)
    assert window.covered(grid, window.drawn).tolist() == [False] * 4 + [True] * 2 + [False] * 4
    assert place(grid, (0, 10_000), (0, 200), [], "x").num_frames == 10  # all after it
    window = place(grid, (0, 2000), (1000, 1300), [(1300, 2000)], "x")  # nothing known behind it
    assert (window.start, window.num_frames) == (300, 10)
    assert split((0, 1000), grid) == [(0, 500), (500, 1000)]
    chosen = torch.zeros(23, dtype=torch.bool)
    chosen[[0, 1, 12, 22]] = True
    spans = [span for window in scattered(grid, (0, 2300), chosen, None) for span in window.drawn]
    assert spans == [(0, 200), (1200, 1300), (2200, 2300)]


MISTAKES = [
    ([(2.0, 4.0)], r"region 2 to 4 s is outside of the sound, which lasts 3\.000 s: choose"),
    ([(-1.0, 1.0)], "region -1 to 1 s is outside"),
    ([(1.0, 1.0)], "region 1 to 1 s is empty: its end must be after its start"),
    ([(2.0, 1.0)], "is empty"),
    ([(float("nan"), 1.0)], "give two finite numbers"),
    ([(1.0, 2.0), (1.5, 2.5)], "regions 1 to 2 s and 1.5 to 2.5 s overlap: join them or move one"),
    ([], "no region to replace"),
    ([(1.0,)], r"region \(1\.0,\): give \(start, end\) or"),
    ([(1.0, 2.0, "rain", 3)], "give .start, end. or .start, end, caption"),
    ([("1", "2")], "give .start, end. or"),
    ((1.0, 2.0), r"region 1\.0: give"),
    ("1:2", "region '1': give"),
    ([(1.0, 2.0, 5)], "every caption needs at least one word"),
]


@pytest.mark.parametrize(("regions", "message"), MISTAKES)
def test_regions_that_make_no_sense(pipeline, regions, message):
    with pytest.raises(UserError, match=message):
        pipeline.edit((noise().T, RATE), "rain", regions, **QUICK)


def test_sounds_that_cannot_be_edited(pipeline):
    for samples, message in (
        (noise(channels=6), "6 channels, but only mono and stereo"),
        (0 * noise(), "silent .* generate a sound instead"),
        (noise() * [1, -1], "cancel each other"),
        (noise(0), "holds no audio samples"),
    ):
        with pytest.raises(UserError, match=message):
            pipeline.edit((samples.T, RATE), "rain", [(1, 2)], **QUICK)
    sound = (noise().T, RATE)
    for call, message in (
        (lambda: pipeline.edit(sound, None, [(1, 2)], **QUICK), "at least one caption"),
        (lambda: pipeline.edit(sound, "rain", [(1, 2)], fade_ms=-1, **QUICK), "fade_ms = -1"),
        (lambda: pipeline.extend(sound, "rain", 0.0, **QUICK), "0 s to add"),
        (lambda: pipeline.extend(sound, "rain", 1e9, **QUICK), "at most 3600 s"),
        (lambda: pipeline.loop("rain", seconds=1e9, **QUICK), "at most 600 s"),
        (lambda: pipeline("rain", 1e-9, **QUICK), "from one sample to"),
        (lambda: pipeline.vary(sound, "rain", preset="slow", **QUICK), "choose exact or fast"),
        (lambda: pipeline.vary(sound, "rain", **QUICK | {"num_iterations": 10**9}), "at most 100000"),
        (lambda: pipeline.extend(sound, "rain", 1.0, "left", **QUICK), "choose start, end, both"),
        (lambda: pipeline.vary(sound, "rain", 0.0, **QUICK), "share = 0"),
        (lambda: pipeline.loop(sound, "rain", seam=2.0, **QUICK), "at most half"),
        (lambda: pipeline.loop(sound, "rain", seconds=9, **QUICK), "9 s of a sound that lasts 3.000 s"),
    ):
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        ((np.full(RATE, 3000, np.int16), RATE), "divide integers by their full scale"),
        ((np.full(RATE, 3000.0), RATE), "3e.03 times full scale"),
        ((np.full(RATE, 0.1j), RATE), "expected finite floating point"),
        ((np.zeros((1, 1, RATE)), RATE), "expected finite floating point"),
        ((np.full(RATE, 0.1), 0), "sample rate 0: give a whole number of Hz"),
        ((np.full(RATE, 0.1), 1.5), "sample rate 1.5"),
        ((np.full(RATE, 0.1), "16000"), "sample rate '16000'"),
        (np.full(RATE, 0.1), "type ndarray: give a file, or"),
        (None, "type NoneType: give a file, or"),
    ],
)
def test_what_is_not_a_sound(pipeline, sound, message):
    with pytest.raises(UserError, match=message):
        pipeline.vary(sound, "rain", **QUICK)


def test_tensors_of_any_precision(pipeline):
    for waveform in (torch.from_numpy(noise(1)[:, 0]).bfloat16(), torch.from_numpy(noise(1)[:, 0]).requires_grad_()):
        assert pipeline.vary((waveform, float(RATE)), "rain", **QUICK).duration == 1
