"""The exported shipped model: equal to PyTorch graph by graph, sound by sound, and free of it."""

import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import soundfile
import torch

from impact_pl.cli import export as command
from impact_pl.config import DecodingConfig, with_preset
from impact_pl.errors import UserError
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.portable.edit import replace_region
from impact_pl.portable.noise import Noise
from impact_pl.portable.steps import ancestral_steps
from impact_pl.randomness import clip_generators
from impact_pl.sampling.diffusion import make_schedule
from impact_pl.sampling.solvers import ancestral

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
from impact_pl.portable.__main__ import main
from impact_pl.portable.runner import Runner

RATE = 16_000
QUICK = {"num_iterations": 4, "num_diffusion_steps": 5}
CLOSE = 1e-3  # of a waveform in [-1, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder that the command writes, which measures every graph and fails above its bound."""
    folder = tmp_path_factory.mktemp("portable") / "graphs"
    command.main(["builtin", str(folder), "--onnx"])
    return folder


@pytest.fixture(scope="module")
def runner(folder):
    return Runner(folder)


@pytest.fixture(scope="module")
def pipeline():
    return ImpactPipeline.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def sound(runner):
    return runner.generate("rain on a roof", 3.0, seed=1, decoding=runner.decoding(**QUICK))


@pytest.mark.parametrize("caption", ["a dog barks", "Käse, naïve"])
def test_noise_is_that_of_pytorch(caption):
    ours, theirs = Noise(7, caption, "latents"), clip_generators([7], [caption], "latents")[0]
    np.testing.assert_array_equal(ours.uniform(64), torch.rand(64, generator=theirs).numpy())
    for shape in [(3, 5, 128), (16,), (1001,), (5, 7)]:
        np.testing.assert_allclose(ours.normal(*shape), torch.randn(shape, generator=theirs).numpy(), atol=3e-6)
    np.testing.assert_array_equal(ours.uniform(257), torch.rand(257, generator=theirs).numpy())


@pytest.mark.parametrize("num_steps", [1, 2, 25, 50])
@pytest.mark.parametrize("predicts_velocity", [False, True])
@pytest.mark.parametrize("min_alpha_bar", [0.0, 1e-3])
def test_steps_are_those_of_pytorch(num_steps, predicts_velocity, min_alpha_bar):
    schedule = make_schedule(1000, num_steps, min_alpha_bar)
    theirs = ancestral(schedule, predicts_velocity, 0.8)
    ours = ancestral_steps(1000, num_steps, min_alpha_bar, predicts_velocity, 0.8)
    assert [step.timestep for step in ours] == schedule.timesteps.flip(0).tolist()
    np.testing.assert_allclose([step[1:] for step in ours], [list(vars(step).values()) for step in theirs], rtol=2e-6)


@pytest.mark.parametrize("negative", [None, "speech"])
@pytest.mark.parametrize("seconds", [0.01, 2.0])
def test_a_sound_is_the_pipelines(runner, pipeline, seconds, negative):
    mine = runner.generate("a dog barks", seconds, 3, runner.decoding("fast", **QUICK), negative)
    theirs = pipeline(
        "a dog barks", seconds, seed=3, preset="fast", precision="32-true", negative_caption=negative, **QUICK
    )
    assert mine.shape == theirs.waveforms[0].shape
    np.testing.assert_allclose(mine, theirs.waveforms[0].numpy(), atol=CLOSE)
    assert seconds < 1 or np.abs(mine).max() > 0.01


@pytest.mark.parametrize("region", [(0.5, 1.25), (0.0, 0.3), (1.9, 3.0)])
def test_an_edit_is_the_pipelines_and_leaves_the_rest(runner, pipeline, sound, region):
    mine = replace_region(runner, sound, *region, "a rooster crows", 4, runner.decoding(**QUICK))
    options = {"seed": 4, "precision": "32-true", "progress": False, **QUICK}
    theirs = pipeline.edit((torch.from_numpy(sound), RATE), "a rooster crows", [region], **options)
    np.testing.assert_allclose(mine, theirs.recording.samples()[:, 0], atol=CLOSE)
    outside = np.ones(len(sound), bool)
    outside[max(0, round((region[0] - 0.02) * RATE)) : round((region[1] + 0.02) * RATE)] = False
    np.testing.assert_array_equal(mine[outside], sound[outside])
    assert np.abs(mine - sound)[~outside].max() > 0.01


@pytest.mark.slow
def test_a_long_region_is_drawn_in_parts_as_the_pipeline_does(runner, pipeline, sound):
    long, region = np.tile(sound, 3), (2.0, 7.9)
    reported = []
    decoding = runner.decoding(**QUICK)
    mine = replace_region(runner, long, *region, "wind", 4, decoding, lambda *each: reported.append(each))
    options = {"seed": 4, "precision": "32-true", "progress": False, **QUICK}
    theirs = pipeline.edit((torch.from_numpy(long), RATE), "wind", [region], **options)
    np.testing.assert_allclose(mine, theirs.recording.samples()[:, 0], atol=CLOSE)
    assert [done for done, _ in reported] == list(range(1, reported[-1][1] + 1))


def test_known_patches_stay_known(runner):
    known = np.arange(12) % 3 == 0
    patches = np.random.default_rng(0).standard_normal((12, 128)).astype(np.float32)
    conditions, decoding = runner.conditions("wind"), runner.decoding(**QUICK)
    filled = runner.fill(patches, known, ~known, conditions, decoding, Noise(0, "wind", "latents"))
    np.testing.assert_array_equal(filled[known], patches[known])
    assert (filled[~known] != patches[~known]).all()


def test_the_command_makes_and_edits_without_torch(folder, tmp_path):
    code = (
        "import sys; from impact_pl.portable.__main__ import main\n"
        "options = ['--iterations', '2', '--diffusion-steps', '3']\n"
        "main([sys.argv[1], 'a dog barks', '-o', 'a.wav', '--duration', '1', *options])\n"
        "main([sys.argv[1], 'wind', '--edit', 'a.wav', '--replace', '0.2:0.5', '-o', 'b.wav', *options])\n"
        "assert not {'torch', 'lightning', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "wrote a.wav: 1.00 s\nwrote b.wav: 1.00 s\n"
    before, after = (soundfile.read(tmp_path / name, dtype="int16")[0] for name in ("a.wav", "b.wav"))
    np.testing.assert_array_equal(before[8320:], after[8320:])
    assert np.abs(before).max() > 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wind"], "-o/--out"),
        (["wind", "-o", "a.mp3"], "ends in .wav"),
        (["", "-o", "a.wav"], "at least one word"),
        (["wind", "-o", "a.wav", "--duration", "9"], "up to 5.12 s"),
        (["wind", "-o", "a.wav", "--duration", "nan"], "up to 5.12 s"),
        (["wind", "-o", "a.wav", "--temperature", "-1"], "temperature = -1.0"),
        (["wind", "-o", "a.wav", "--diffusion-steps", "5000"], "choose 1 to 979"),
        (["wind", "-o", "a.wav", "--iterations", "0"], "at least 1"),
        (["wind", "-o", "a.wav", "--edit", "x.wav"], "belong together"),
        (["wind", "-o", "a.wav", "--edit", "x.wav", "--replace", "1"], "START:END"),
        (["wind", "-o", "a.wav", "--edit", "x.wav", "--replace", "1:2"], "no such audio file"),
        (["wind", "-o", "a.wav", "--edit", "stereo.wav", "--replace", "0:1"], "2 channels at 8000 Hz"),
        (["wind", "-o", "a.wav", "--edit", "mono.wav", "--replace", "0:9"], "from 0 to 1.000 s"),
        (["wind", "-o", "a.wav", "--edit", "silent.wav", "--replace", "0.2:0.4"], "silent"),
    ],
)
def test_mistakes_are_one_line(run, folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    soundfile.write("stereo.wav", np.zeros((8000, 2)), 8000)
    soundfile.write("silent.wav", np.zeros(RATE), RATE)
    soundfile.write("mono.wav", np.full(RATE, 0.5), RATE)
    assert run(main, folder, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_damaged_folder_is_named(run, folder, tmp_path, capsys):
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "head.onnx").unlink()
    assert run(main, tmp_path, "wind", "-o", "a.wav") == 2
    assert "has no head.onnx" in capsys.readouterr().err
    (tmp_path / "head.onnx").write_bytes((folder / "head.onnx").read_bytes()[:-1000])
    assert run(main, tmp_path, "wind", "-o", "a.wav") == 2
    assert "head.onnx is damaged" in capsys.readouterr().err

    config = (folder / "config.json").read_text()
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(config.replace('"num_iterations"', '"iterations"'))
    assert run(main, tmp_path, "wind", "-o", "a.wav") == 2
    assert "decoding.iterations" in capsys.readouterr().err


def test_settings_without_a_runner_are_refused(runner):
    own = runner.config.decoding
    runner.config = replace(runner.config, decoding=replace(own, reveal="adaptive"))
    with pytest.raises(UserError, match="reveal = adaptive"):
        runner.decoding()
    runner.config = replace(runner.config, decoding=replace(own, reveal="linear"))
    assert runner.decoding("fast") == with_preset(DecodingConfig(**asdict(own)), "fast", {"reveal": "linear"})
