"""The README keeps its word: its file map names every file, and its commands are ones that exist and parse."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from impact_pl.cli import compose, evaluate, generate
from impact_pl.config import PrecomputeConfig, TrainConfig

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every command line of the README's shell blocks, continued lines joined, comments cut off."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [part.strip() for line in lines for part in re.sub(r"\s#.*", "", line).split("&&")]
    return [command for command in commands if command and not command.startswith("#")]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_exist_and_parse(command):
    program, *arguments = shlex.split(command)
    if program == "make":
        target = arguments[0]
        assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), target
    elif program == "impact-train":
        compose.compose("train", TrainConfig, arguments)
    elif program == "impact-precompute":
        compose.compose("precompute", PrecomputeConfig, arguments)
    elif program == "impact-generate":
        assert generate.plan_jobs(generate.build_parser().parse_args(arguments))
    elif program == "impact-evaluate":
        evaluate.build_parser().parse_args(arguments)
    elif program == "impact-export":
        assert len(arguments) == 2
    elif program == "python":
        assert arguments[0] == "-m"
        module = arguments[1].removeprefix("impact_pl.").split(".")
        folder = ROOT if module[0] == "data_prep" else ROOT / "src" / "impact_pl"
        text = folder.joinpath(*module).with_suffix(".py").read_text()
        for option in (argument for argument in arguments if argument.startswith("--")):
            assert f'"{option}"' in text, f"{arguments[1]} has no {option}"
    else:
        assert program in {"source", "git", "cd"}, f"the README uses {program}, which nobody checks"


def tracked_files() -> set[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout (an unpacked archive has no list of tracked files)")
    return set(listed.stdout.split())


def test_the_file_map_names_every_source_file():
    """Sources, configuration and scripts one by one; tests and package data by folder."""
    file_map = README.split("## File map")[1].split("\n## ")[0]
    named = set(re.findall(r"^`([^`]+)`", file_map, flags=re.MULTILINE))
    wanted = {
        name
        for name in tracked_files()
        if not name.startswith(("tests/", "src/impact_pl/assets/", "docs/")) and not name.endswith("__init__.py")
    }
    wanted -= {"README.md", "LICENSE", ".gitignore", "src/impact_pl/__init__.py"}
    wanted |= {"tests/", "src/impact_pl/assets/", "src/impact_pl/__init__.py"}
    missing = wanted - named
    assert not missing, f"not in the README's file map: {sorted(missing)}"
    gone = {name for name in named if not (ROOT / name).exists()}
    assert not gone, f"in the README's file map but not there: {sorted(gone)}"
