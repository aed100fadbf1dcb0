"""The recipe of each data set: its commands parse, and ESC-50's makes shards."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from impact_pl.audio import save_audio
from impact_pl.cli import data
from impact_pl.data.shards import LatentDataset
from tests.helpers.commands import parse_impact
from tests.helpers.documents import ROOT

RECIPES = {path.stem: path for path in sorted((ROOT / "data_prep" / "recipes").glob("*.sh"))}
PROGRAMS = Path(sys.executable).parent
SHOW = '#!/usr/bin/env bash\nprintf \'%s\\0\' "$@" >> "$ARGUMENTS"\nprintf \'\\n\' >> "$ARGUMENTS"\n'


def run_recipe(name: str, programs: Path, *arguments: str | Path, **environ: str) -> None:
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", RECIPES[name], *map(str, arguments)], env={**os.environ, "PATH": path, **environ}, check=True
    )


def test_every_data_set_has_one():
    assert RECIPES.keys() == data.SETS.keys() - {"join"}


def test_shellcheck_finds_nothing():
    done = subprocess.run([PROGRAMS / "shellcheck", *RECIPES.values()], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_parse(name, tmp_path):
    """The scripts' own commands as bash expands them, from a program that notes its arguments."""
    (tmp_path / "impact").write_text(SHOW)
    (tmp_path / "impact").chmod(0o755)
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "captions.csv").touch()
    run_recipe(name, tmp_path, tmp_path / "a folder", "out", "device=cpu", ARGUMENTS=str(tmp_path / "arguments"))
    lines = [line.split("\0")[:-1] for line in (tmp_path / "arguments").read_text().splitlines()]
    for arguments in lines:
        parse_impact(*arguments)
    names = [line[0] for line in lines]
    assert names[-2:] == ["precompute", "verify"]
    assert set(names[:-2]) == {"data"}
    assert lines[-2][-1] == "device=cpu"


def test_esc50_becomes_shards(tmp_path):
    folder, out = tmp_path / "ESC-50-master", tmp_path / "out"
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    rows = [["filename", "fold", "target", "category", "esc10", "src_file", "take"]]
    generator = torch.Generator().manual_seed(0)
    for fold in range(1, 6):
        name = f"{fold}-{fold}00-A-0.wav"
        save_audio(folder / "audio" / name, 0.1 * torch.randn(80_000, generator=generator))
        rows.append([name, str(fold), "0", "crying_baby", "True", f"{fold}00", "A"])
    with open(folder / "meta" / "esc50.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    run_recipe("esc50", PROGRAMS, folder, out, "device=cpu", "text_encoder=none")
    train = LatentDataset(out / "latents" / "train")
    assert [train[i]["caption"] for i in range(len(train))] == ["crying baby"] * 3
    assert len(LatentDataset(out / "latents" / "valid")) == len(LatentDataset(out / "latents" / "test")) == 1
