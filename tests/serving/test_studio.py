"""Sounds made and edited through the studio: settings that make them again, limits, warnings, history."""

import shlex
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from impact_pl.cli.generate import build_parser
from impact_pl.errors import UserError
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.serving.picture import SPECTROGRAM, WAVE, WIDTH, draw_sound, mark_region
from impact_pl.serving.studio import Limits, Session, Studio

RATE = 16_000


@pytest.fixture(scope="module")
def pipeline():
    return ImpactPipeline.from_pretrained(device="cpu")


@pytest.fixture
def studio(pipeline, tmp_path):
    return Studio(pipeline, tmp_path)


@pytest.fixture
def noise(tmp_path):
    path = tmp_path / "noise.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(2 * RATE), RATE)
    return path


def test_variations_and_how_to_make_them_again(studio, pipeline):
    session, steps = Session(), []
    takes = studio.generate(session, " a  dog barks ", 1.0, 2, 3, "fast", progress=lambda *step: steps.append(step))
    assert [take.settings["seed"] for take in takes] == [3, 4]
    assert steps[-1][0] == steps[-1][1]
    for take in takes:
        program, command, *options = shlex.split(take.settings["command"])
        given = build_parser().parse_args(options)
        assert (program, command, given.captions) == ("impact", "generate", ["a dog barks"])
        again = pipeline(given.captions, given.duration, seed=given.seed, preset=given.preset).waveforms[0]
        samples, rate = soundfile.read(take.file)
        assert (rate, len(samples), take.seconds) == (RATE, RATE, 1.0)
        np.testing.assert_allclose(samples, again, atol=1e-3)  # 16 bits, and the rounding of a batch


def test_edits_keep_what_is_outside(studio, noise):
    session = Session()
    before = soundfile.read(noise, dtype="int16")[0]
    (take,) = studio.replace(session, noise, "a rooster crows", 0.5, 1.0, 1, "fast")
    after, rate = soundfile.read(take.file, dtype="int16")
    fade = round(0.02 * RATE)
    assert (rate, len(after)) == (RATE, len(before))
    np.testing.assert_array_equal(before[: RATE // 2 - fade], after[: RATE // 2 - fade])
    np.testing.assert_array_equal(before[RATE + fade :], after[RATE + fade :])
    assert take.settings == {"of": "noise.wav", "start": 0.5, "end": 1.0, "seed": 1, "preset": "fast"}
    assert studio.extend(session, take.file, "wind", 0.5, "both", 0, "fast")[0].seconds == pytest.approx(3.0)
    assert studio.vary(session, noise, "wind", 0.2, 0, "fast")[0].seconds == 2.0
    assert studio.loop(session, noise, "wind", 0.5, 0, "fast")[0].seconds == 2.0
    assert [take.title.split()[0] for take in session.takes] == ["replace", "extend", "vary", "loop"]


def test_the_history_is_bounded_and_its_files_go_with_it(pipeline, tmp_path, noise):
    studio, session = Studio(pipeline, tmp_path, limits=Limits(history=2)), Session()
    for seed in range(3):
        studio.vary(session, noise, "rain", 0.1, seed, "fast")
    assert [take.settings["seed"] for take in session.takes] == [1, 2]
    assert sorted(session.folder.iterdir()) == sorted(take.file for take in session.takes)
    folder = session.folder
    session.close()
    assert not folder.exists()
    assert not session.takes


def test_a_silent_sound_is_told(pipeline, tmp_path, monkeypatch):
    decode = pipeline.codec.decode
    monkeypatch.setattr(pipeline.codec, "decode", lambda *given: 1e-5 * decode(*given))
    (take,) = Studio(pipeline, tmp_path).generate(Session(), "rain", 0.5, 1, 0, "fast")
    assert take.warning.startswith("silent")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"caption": "  "}, "no caption"),
        ({"caption": None}, "no caption"),
        ({"caption": "x" * 301}, "301 characters: use at most 300"),
        ({"seconds": 9}, "seconds = 9: choose from 0.1 to 5.12"),
        ({"seconds": float("nan")}, "seconds = nan: give a number"),
        ({"variations": 5}, "variations = 5: choose from 1 to 4"),
        ({"variations": 1.5}, "give a whole number"),
        ({"seed": -1}, "seed = -1: choose from 0"),
        ({"seed": None}, "seed = None: give a number"),
        ({"preset": "best"}, "preset = 'best': choose exact, fast"),
    ],
)
def test_a_generation_beyond_the_limits_is_refused(studio, changed, told):
    session = Session()
    with pytest.raises(UserError, match=told):
        studio.generate(session, **{"caption": "rain", "seconds": 1.0, **changed})
    assert session == Session()


def test_an_edit_beyond_the_limits_is_refused(studio, noise, tmp_path):
    session = Session()
    (tmp_path / "letter.wav").write_text("dear model")
    soundfile.write(tmp_path / "long.flac", np.zeros(61 * 8000), 8000)
    soundfile.write(tmp_path / "surround.wav", np.zeros((RATE, 6)), RATE)
    soundfile.write(tmp_path / "still.wav", np.zeros(2 * RATE), RATE)
    for sound, start, end, told in (
        (None, 0, 1, "no sound to edit"),
        (tmp_path / "letter.wav", 0, 1, "letter.wav: cannot be read as audio"),
        (tmp_path / "long.flac", 0, 1, "lasts 61.0 s, and this page edits up to 60 s"),
        (tmp_path / "surround.wav", 0, 1, "has 6 channels"),
        (tmp_path / "still.wav", 0, 1, "silent"),
        (noise, 1, 1, "is empty"),
        (noise, 1, 3, "outside of the sound, which lasts 2.000 s"),
    ):
        with pytest.raises(UserError, match=told) as refused:
            studio.replace(session, sound, "rain", start, end)
        assert str(tmp_path) not in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="seconds = 11"):
        studio.extend(session, noise, "rain", 11)
    with pytest.raises(UserError, match="share = 0"):
        studio.vary(session, noise, "rain", 0)
    assert not session.takes


@pytest.mark.parametrize("num_samples", [1, 500, RATE])
def test_the_picture_is_as_wide_as_the_sound_is_long(num_samples):
    pixels = draw_sound(torch.randn(num_samples).clamp(-1, 1), RATE)
    assert pixels.shape == (WAVE + SPECTROGRAM, WIDTH, 3)
    marked = np.asarray(mark_region(pixels, 2.0, 0.5, 1.0))
    changed = (marked != pixels).any(axis=(0, 2))
    assert changed[: WIDTH // 4].all()
    assert not changed[WIDTH // 4 + 3 : WIDTH // 2 - 3].all()


def test_a_model_folder_is_named_in_the_command(pipeline, tmp_path):
    studio = Studio(pipeline, tmp_path, model="runs/mine/model", limits=replace(Limits(), caption=10))
    (take,) = studio.generate(Session(), "rain", 0.5, 1, 0, "fast")
    assert take.settings["command"].endswith("--model runs/mine/model")
    with pytest.raises(UserError, match="at most 10"):
        studio.generate(Session(), "rain on a roof", 0.5)
