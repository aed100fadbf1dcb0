"""The program `impact`: its subcommands, how fast --help answers, locales, pipes, optimised bytecode."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

from impact_pl.cli import data
from impact_pl.cli.main import COMMANDS, main

PROGRAM = Path(sys.executable).with_name("impact")
HELPS = [[], *([name] for name in COMMANDS), ["listening", "ratings"], *(["data", name] for name in data.SETS)]
SLOW = {"torch", "torchaudio", "numpy", "lightning", "hydra", "omegaconf", "transformers", "soundfile", "rich"}
UNNEEDED = {  # by `impact generate`: importing any of these would take as long as generating a short sound
    *("transformers", "diffusers", "lightning", "hydra", "omegaconf", "torchmetrics", "tensorboard", "deepspeed"),
    *(
        "pandas",
        "scipy",
        "sklearn",
        "librosa",
        "matplotlib",
        "rich",
        "sympy",
        "torch._dynamo",
        "torch.distributed.tensor",
    ),
}
QUICK = ["--iterations", "2", "--diffusion-steps", "2", "--duration", "0.5"]


def impact(*argv, interpreter: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *interpreter, "-m", "impact_pl", *map(str, argv)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    return subprocess.run(command, capture_output=True, env=environ | environment)


def test_ctrl_c_while_modules_are_loaded_is_one_line(monkeypatch, capsys):
    def interrupt(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("impact_pl.cli.main.importlib.import_module", interrupt)
    with pytest.raises(SystemExit) as exit_info:
        main(["generate"])
    assert exit_info.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("argv", HELPS, ids=" ".join)
def test_help_names_an_example_and_loads_nothing_slow(argv):
    code = f"""
import sys
from impact_pl.cli.main import main
try:
    main({[*argv, "--help"]})
except SystemExit as end:
    assert not end.code
print("loaded:", *sorted({SLOW} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *said, loaded = done.stdout.splitlines()
    assert said[0].startswith(" ".join(["usage: impact", *argv]))
    assert any(" ".join(["impact", *argv]) in line for line in said[1:])
    assert len(said) > 8
    assert loaded.split() == ["loaded:"]


def loaded_by(code: str, among: set[str]) -> list[str]:
    code += f"\nimport sys; print(*sorted({among} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def test_importing_the_package_loads_nothing_slow():
    assert loaded_by("import impact_pl", SLOW | UNNEEDED) == []


def test_generate_imports_no_more_than_it_needs(tmp_path):
    argv = ["generate", "a dog barks", "-o", str(tmp_path / "dog.wav"), "--preset", "fast", *QUICK]
    newer = Version(version("torch")) >= Version("2.13")
    own = set() if newer else {"sympy", "torch._dynamo", "torch.distributed.tensor"}  # torch 2.11 loads its compiler
    assert loaded_by(f"from impact_pl.cli.main import main; main({argv})", UNNEEDED - own) == []


def test_the_console_script_is_the_module():
    assert subprocess.run([PROGRAM, "--version"], capture_output=True).stdout == impact("--version").stdout


def test_an_unknown_command_names_the_nearest(capsys):
    for argv, named in ((["genrate"], "did you mean generate?"), (["xyzzy"], "`impact --help` lists them")):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 2
        assert named in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["data", "audiocap"])
    assert "did you mean audiocaps?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["generate", "x", "--spectogram"], "unrecognized arguments: --spectogram; did you mean --spectrogram?"),
        (["generate", "x", "--seed", "-1"], "--seed: -1: a seed is from 0 to 2147483647"),
        (["info", "a", "b"], "unrecognized arguments: b"),
        (["data", "folder", "--audio", "x"], "missing: --out"),
        (["listening", "ratings"], "missing: --key, CSV"),
    ],
)
def test_a_mistaken_option_is_one_line_that_names_the_help(capsys, argv, told):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    program = " ".join(["impact", *(name for name in argv[:2] if name in (*COMMANDS, *data.SETS, "ratings"))])
    assert capsys.readouterr().err == f"error: {told} (`{program} --help` lists the options)\n"


def test_threads_sleep_unless_the_user_says_otherwise(monkeypatch, capsys):
    for given, kept in (("", "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if given:
            monkeypatch.setenv("OMP_WAIT_POLICY", given)
        main(["--help"])
        assert os.environ["OMP_WAIT_POLICY"] == kept
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)


@pytest.mark.parametrize("optimised", ["-O", "-OO"])
def test_every_help_without_docstrings(optimised):
    """-OO removes docstrings: no text of a help is one."""
    code = f"""
from impact_pl.cli.main import main
for argv in {HELPS}:
    try:
        main([*argv, "--help"])
    except SystemExit as end:
        assert not end.code
"""
    done = subprocess.run([sys.executable, optimised, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "AudioCaps: convert its published CSV" in done.stdout


def test_a_reader_that_has_gone_is_nobodys_error(tmp_path):
    """`impact ... | head -1` ends well once the work is done, and silently where it was not."""
    for argv in (["train", "--cfg", "model=tiny"], ["train", "--help"], ["info"]):
        reader, writer = os.pipe()
        process = subprocess.Popen([sys.executable, "-m", "impact_pl", *argv], stdout=writer, stderr=subprocess.PIPE)
        os.close(reader)
        os.close(writer)
        said = process.communicate()[1]
        assert said == b""
        assert process.returncode in (0, 141)  # 141: it had not printed all


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, {"PYTHONIOENCODING": "latin-1"}])
def test_captions_in_any_script_under_any_locale(trained, tmp_path, locale):
    model = trained / "text" / "model"
    made = impact("generate", "雨の音 and Geräusche", "-o", tmp_path / "雨.wav", "--model", model, *QUICK, **locale)
    assert made.returncode == 0, made.stderr.decode()
    assert (tmp_path / "雨.wav").is_file()
    assert made.stdout.splitlines()[-1]
    assert b"Traceback" not in made.stderr


def test_optimised_bytecode_makes_the_same_sound(trained, tmp_path):
    """Without asserts; transformers itself needs its docstrings (-OO)."""
    for name, interpreter in (("plain", ()), ("optimised", ("-O",))):
        out = tmp_path / f"{name}.wav"
        done = impact("generate", "rain", "-o", out, "--model", trained / "text/model", *QUICK, interpreter=interpreter)
        assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "plain.wav").read_bytes() == (tmp_path / "optimised.wav").read_bytes()
