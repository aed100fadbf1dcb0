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


def test_torchaudio_and_transformers_are_importable_after_ours():
    code = (
        "from impact_pl._torchaudio import torchaudio; import torch; from transformers import ClapModel;"
        "print(tuple(torchaudio.transforms.MelSpectrogram()(torch.ones(1, 800)).shape))"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(1, 128, 5)\n"


def _load_in_worker(_) -> str:
    import torchaudio

    return torchaudio.__version__


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    ["codecs.registry", "text_encoders.registry", "training.codec", "evaluation.networks.cnn14", "checkpoint_io"],
)
def test_every_module_that_needs_torchaudio_or_transformers_finds_them(module):
    done = python("-c", f"import impact_pl.{module}; from transformers import ClapModel, SpeechT5HifiGan; print(1)")
    assert done.stdout == "1\n", done.stderr


def test_spawned_processes_import_torchaudio_too():
    import torchaudio

    with get_context("spawn").Pool(1, initializer=_import_package) as pool:
        assert pool.map(_load_in_worker, [0]) == [torchaudio.__version__]


def _import_package() -> None:
    import impact_pl.audio  # noqa: F401  # what unpickling a function that works with sounds does in a worker


def test_package_data_stays_small():
    """Weights of codec and model, cards and captions: what every installation has to carry."""
    files = [path for path in (ROOT / "src" / "impact_pl" / "assets").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 64e6


OFFLINE = """
import runpy, socket, sys
import impact_pl
assert impact_pl.__file__.startswith(sys.argv.pop(1)), impact_pl.__file__
def refuse(*_): raise AssertionError("the network was asked for something")
socket.socket.connect = socket.getaddrinfo = refuse
runpy.run_module("impact_pl", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_the_wheel_runs_with_its_configuration_and_weights(tmp_path):
    """Built, unpacked beside nothing else of this checkout, and used from another directory, without a network."""
    built = python("-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT))
    assert built.returncode == 0, built.stderr
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assets = [each for each in wheel.infolist() if "/assets/" in each.filename]
        wheel.extractall(site)
    committed = {path.name for path in (ROOT / "src/impact_pl/assets").rglob("*") if path.suffix != ".pyc"}
    assert {Path(each.filename).name for each in assets} == {name for name in committed if "." in name}
    assert sum(each.file_size for each in assets) <= 64e6

    def run(*argv: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", OFFLINE, str(site), *argv],
            cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(site)},
        )  # fmt: skip

    quick = ["--iterations", "2", "--diffusion-steps", "3", "--duration", "1"]
    made = run("generate", "a rooster crows", *quick)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "a_rooster_crows.wav").stat().st_size == 44 + 2 * 16_000
    listed = run("generate", "--captions-file", "builtin", "--limit", "2", "--page", "two.html", *quick)
    assert listed.returncode == 0, listed.stderr
    assert (tmp_path / "two.html").read_text().count("<audio") == 2
    composed = run("train", "experiment=pretrain", "model=large", "data.path=nowhere")
    assert "nowhere" in composed.stderr, composed.stderr
