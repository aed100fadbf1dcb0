"""impact edit and impact generate --timeline: files in, files out, and one line per mistake with nothing written."""

import numpy as np
import pytest
import soundfile

from impact_pl.cli import edit, generate

QUICK = ["--iterations", "3", "--diffusion-steps", "3", "--device", "cpu"]
RATE = 22_050


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Moves to a folder with in.wav, three stereo seconds of noise."""
    monkeypatch.chdir(tmp_path)
    samples = np.random.default_rng(0).standard_normal((3 * RATE, 2)) * [0.1, 0.05]
    soundfile.write("in.wav", samples, RATE)
    return tmp_path


@pytest.fixture
def edited(run, trained, folder):
    """Run `impact edit in.wav` with the small model."""
    return lambda *argv: run(edit.main, "in.wav", *argv, "--model", trained / "text" / "model", *QUICK)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_replacing_leaves_the_rest(edited, folder, capsys):
    arguments = ["--replace", "0.5:1", "a dog barks", "--replace", "2:2.2", "rain", "--fade", "10"]
    assert edited(*arguments, "-o", "out.wav", "--page", "page.html", "--seed", "3") == 0
    before, _ = soundfile.read("in.wav", dtype="int16")
    after, rate = soundfile.read("out.wav", dtype="int16")
    at = np.arange(3 * RATE) / RATE
    kept = (at < 0.489) | ((at > 1.011) & (at < 1.989)) | (at > 2.211)
    assert rate == RATE
    assert np.array_equal(before[kept], after[kept])
    assert (before[~kept] != after[~kept]).mean() > 0.9
    said = capsys.readouterr().out
    assert "out.wav: 3.00 s stereo at 22050 Hz, 0.70 s of it drawn, seed 3" in said.splitlines()[-1]
    page = (folder / "page.html").read_text()
    for part in ("Before", "After", "a dog barks (0.50 to 1.00 s); rain (2.00 to 2.20 s)", "--replace 0.5:1"):
        assert part in page
    assert names(folder) == {"in.wav", "out.wav", "page.html"}


def test_the_other_operations(edited, folder):
    caption = ["--caption", "a dog barks"]
    assert edited("--extend", "1.5", "--side", "both", *caption) == 0
    assert soundfile.info("in_edited.wav").frames == 6 * RATE
    assert edited("--vary", "0.3", *caption, "-o", "varied.flac", "--negative", "rain") == 0
    assert edited("--loop", "--seam", "0.4", *caption, "-o", "loop.wav", "--keep-level") == 0
    for name in ("varied.flac", "loop.wav"):
        assert soundfile.info(name).frames == 3 * RATE


def test_a_timeline_becomes_one_file(run, trained, folder, capsys):
    (folder / "storm.txt").write_bytes(b"\xef\xbb\xbf0\train\r\n1.5 thunder; 2 a dog barks\r\n")
    model = ["--model", trained / "text" / "model", *QUICK]
    assert run(generate.main, "--timeline", "storm.txt", "--duration", "4", *model, "--page", "storm.html") == 0
    assert soundfile.info("storm.wav").frames == 4 * 16_000
    assert "storm.wav: 4.00 s at 16000 Hz, 3 captions, seed 0" in capsys.readouterr().out
    assert "1.5 s: thunder" in (folder / "storm.html").read_text()


@pytest.mark.parametrize(
    "argv",
    [
        ["--replace", "1:1.0002", "rain"],
        ["--replace", "2.9997:3", "rain"],
        ["--extend", "0.0001", "--caption", "rain"],
        ["--loop", "--seam", "0.0001", "--caption", "rain"],
    ],
)
def test_a_few_samples(edited, folder, argv):
    assert edited(*argv, "-o", "out.wav") == 0
    assert soundfile.info("out.wav").frames - 3 * RATE in (0, 2)


def test_a_recording_of_one_sample(edited, run, trained, folder):
    soundfile.write("one.wav", np.full(1, 0.1), RATE)
    model = ["--model", trained / "text" / "model", *QUICK]
    assert run(edit.main, "one.wav", "--vary", "1", "--caption", "rain", "-o", "out.wav", *model) == 0
    assert soundfile.info("out.wav").frames == 1


REPLACE = ["--replace", "0.5:1", "rain"]
MISTAKES = [
    ([], "nothing to do: choose one of --replace, --extend, --vary and --loop"),
    ([*REPLACE, "--loop"], "--replace and --loop: choose one"),
    ([*REPLACE, "--caption", "rain"], "each region has its own caption"),
    (["--replace", "0.5-1", "rain"], "give START:END in seconds, such as 1.2:2.4"),
    (["--replace", "2:4", "rain"], "region 2 to 4 s is outside of the sound, which lasts 3.000 s"),
    (["--replace", "1:1", "rain"], "region 1 to 1 s is empty"),
    ([*REPLACE, "--replace", "0.8:2", "rain"], "overlap: join them or move one"),
    (["--replace", "1:2", " "], "every caption needs at least one word"),
    (["--loop"], "give at least one caption"),
    (["--vary", "1.5", "--caption", "rain"], "share = 1.5"),
    ([*REPLACE, "--fade", "-1"], "fade_ms = -1"),
    ([*REPLACE, "--page", "in.wav"], "choose a name that ends in .html"),
    ([*REPLACE, "-o", f"{'n' * 250}.wav"], "File name too long"),
    ([*REPLACE, "--fad", "1:2"], "`impact edit --help` lists the options"),
    (["--replace", "1:2", "\udcff rain"], "holds bytes that are not text"),
    (["--extend", "1e-9", "--caption", "rain"], "give at least a sample"),
    (["--extend", "1e9", "--caption", "rain"], "at most 3600 s"),
    (["--loop", "--seam", "1e-9", "--caption", "rain"], "give at least a sample"),
    ([*REPLACE, "-o", "out.mp3"], ".mp3 cannot be written, choose .wav or .flac"),
    ([*REPLACE, "-o", "in.wav"], "is the input itself, which is kept"),
    ([*REPLACE, "--model", "nowhere"], "no such model folder"),
]


@pytest.mark.parametrize(("argv", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(edited, folder, run, trained, capsys, argv, message):
    before = (folder / "in.wav").read_bytes()
    model = [] if "--model" in argv else ["--model", trained / "text" / "model"]
    assert run(edit.main, "in.wav", *argv, *model, *QUICK) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert names(folder) == {"in.wav"}
    assert (folder / "in.wav").read_bytes() == before


def long_file(path):
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(180):
            file.write(np.zeros(60 * 8000))


def damaged(path):
    soundfile.write(path, np.random.default_rng(0).standard_normal(40_000) / 5, 16_000)
    path.write_bytes(path.read_bytes()[:3000])


FILES = {
    "samples.raw": (lambda path: path.write_bytes(bytes(9000)), REPLACE, "convert them to WAV or FLAC"),
    "text.wav": (lambda path: path.write_text("no sound"), REPLACE, "cannot be read as audio"),
    "gone.wav": (lambda path: None, REPLACE, "no such audio file"),
    "damaged.flac": (damaged, ["--replace", "1:2", "rain"], "damaged.flac"),
    "empty.wav": (lambda path: soundfile.write(path, np.zeros((0, 1)), 8000), REPLACE, "holds no audio samples"),
    "surround.wav": (
        lambda path: soundfile.write(path, np.full((16_000, 6), 0.1), 16_000),
        REPLACE,
        "has 6 channels, but only mono and stereo are edited",
    ),
    "silence.wav": (lambda path: soundfile.write(path, np.zeros(32_000), 16_000), REPLACE, "it is silent"),
    "long.flac": (long_file, ["--vary", "0.3", "--caption", "rain"], "lasts 10800 s, and at most 600 s"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_edited(run, trained, folder, capsys, name):
    write, argv, message = FILES[name]
    write(folder / name)
    before = names(folder)
    assert run(edit.main, name, *argv, "-o", "out.wav", "--model", trained / "text" / "model", *QUICK) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert names(folder) == before


@pytest.mark.parametrize(
    ("content", "argv", "message"),
    [
        ("0 rain\n5\n", ["--duration", "9"], "storm.txt, entry 2: '5': give seconds and a caption, such as `20 rain`"),
        ("soon rain\n", ["--duration", "9"], "entry 1: 'soon rain'"),
        ("3 rain\n", ["--duration", "9"], "give a caption at 0 seconds"),
        ("", ["--duration", "9"], "give a caption at 0 seconds"),
        ("0 rain\n", [], "give the --duration of the sound in seconds"),
        ("0 rain\n", ["rain", "--duration", "9"], "leave out other captions"),
        ("0 rain\n", ["--duration", "1e9"], "GB are free: choose a shorter --duration"),
        ("0 rain\n", ["--duration", "9", "--spectrogram"], "leave out --split, --limit and --spectrogram"),
        ("0 rain\n", ["--duration", "9", "-o", "out"], "cannot be written, choose .wav or .flac"),
    ],
)
def test_a_timeline_with_a_mistake(run, folder, capsys, content, argv, message):
    (folder / "storm.txt").write_text(content)
    assert run(generate.main, "--timeline", "storm.txt", *argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert names(folder) == {"in.wav", "storm.txt"}


def test_a_timeline_is_not_overwritten(run, folder, capsys):
    (folder / "storm.wav").write_text("0 rain\n")
    assert run(generate.main, "--timeline", "storm.wav", "--duration", "1") == 2
    assert "-o storm.wav is the input itself, which is kept" in capsys.readouterr().err
    assert (folder / "storm.wav").read_text() == "0 rain\n"
