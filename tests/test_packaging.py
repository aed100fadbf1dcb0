"""Installed in whatever way, the package works: configuration and weights are inside, torchaudio imports everywhere."""

import os
import subprocess
import sys
import zipfile
from multiprocessing import get_context
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def python(*argv: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True)


def test_importing_the_package_makes_torchaudio_and_transformers_importable():
    code = (
        "import impact_pl, torch, torchaudio, transformers;"
        "print(tuple(torchaudio.transforms.MelSpectrogram()(torch.ones(1, 800)).shape))"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(1, 128, 5)\n"


def _load_in_worker(_) -> str:
    import torchaudio

    return torchaudio.__version__


def test_spawned_processes_import_torchaudio_too():
    import torchaudio

    with get_context("spawn").Pool(1, initializer=_import_package) as pool:
        assert pool.map(_load_in_worker, [0]) == [torchaudio.__version__]


def _import_package() -> None:
    import impact_pl  # noqa: F401  # what unpickling any of the package's functions does in a worker


COMMANDS = ["train", "precompute", "generate", "evaluate", "export", "report", "reconstruct", "benchmark"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_names_an_example(command):
    done = python("-m", f"impact_pl.cli.{command}", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout.lower()
    assert len(done.stdout.splitlines()) > 8


@pytest.mark.slow
def test_the_wheel_runs_with_its_configuration_and_weights(tmp_path):
    """Built, unpacked beside nothing else of this checkout, and used from another directory."""
    built = python("-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT))
    assert built.returncode == 0, built.stderr
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    code = (
        "import impact_pl; assert impact_pl.__file__.startswith(__import__('sys').argv[1]), impact_pl.__file__;"
        "from impact_pl.cli.compose import compose; from impact_pl.config import TrainConfig;"
        "print(compose('train', TrainConfig, ['model=large']).model.dim);"
        "from impact_pl.codec import load_codec; print(load_codec('builtin').latent_channels)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1024", "64"]
