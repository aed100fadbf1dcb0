"""Imports go down only: the layers of the README's architecture section, checked by reading every import."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {"impact_pl": ROOT / "src" / "impact_pl", "impact_pl.data_prep": ROOT / "data_prep"}

LAYERS = {  # the longest matching prefix decides; higher numbers may import lower ones, and their own
    "impact_pl": 0,
    "impact_pl._torchaudio": 0,
    "impact_pl.assets": 0,
    "impact_pl.conf": 0,
    "impact_pl.config": 1,
    "impact_pl.errors": 1,
    "impact_pl.precision": 1,
    "impact_pl.progress": 1,
    "impact_pl.solvers": 1,
    "impact_pl.parts": 1,
    "impact_pl.audio": 1,
    "impact_pl.diffusion": 1,
    "impact_pl.masking": 1,
    "impact_pl.data": 1,
    "impact_pl.data.lists": 1,
    "impact_pl.data.manifest": 1,
    "impact_pl.data.order": 1,
    "impact_pl.data.partial": 1,
    "impact_pl.data.remote": 1,
    "impact_pl.data.tar": 1,
    "impact_pl.data.cache": 2,
    "impact_pl.data.index": 2,
    "impact_pl.models": 1,
    "impact_pl.models.folder": 1,
    "impact_pl.models.spec": 1,
    "impact_pl.models.transformer": 1,
    "impact_pl.models.latent_encoder": 2,
    "impact_pl.models.heads": 2,
    "impact_pl.models.reuse": 2,
    "impact_pl.models.teacher": 2,
    "impact_pl.decoding": 2,
    "impact_pl.codec": 2,
    "impact_pl.codec_audioldm": 2,
    "impact_pl.codec_builtin": 2,
    "impact_pl.codec_decoder": 2,
    "impact_pl.text": 2,
    "impact_pl.text_clap": 2,
    "impact_pl.text_tokens": 2,
    "impact_pl.data.shards": 2,
    "impact_pl.data.workers": 2,
    "impact_pl.data.datamodule": 2,
    "impact_pl.models.cuda_graphs": 1,
    "impact_pl.models.inference": 1,
    "impact_pl.models.engine": 3,
    "impact_pl.models.impact": 3,
    "impact_pl.models.mar": 3,
    "impact_pl.pipeline": 4,
    "impact_pl.training": 4,
    "impact_pl.evaluation": 4,
    "impact_pl.data_prep": 4,
    "impact_pl.benchmark": 4,
    "impact_pl.ablation": 4,
    "impact_pl.cli": 5,
}
FORBIDDEN = [  # (importing package, imported package): sideways ways that are closed as well
    ("impact_pl.evaluation", "impact_pl.models"),
    ("impact_pl.evaluation", "impact_pl.training"),
    ("impact_pl.training", "impact_pl.evaluation"),
    ("impact_pl.data", "impact_pl.models"),
]
ONLY_IN = {  # third-party package -> the packages that may import it
    "hydra": ["impact_pl.cli"],
    "omegaconf": ["impact_pl.cli"],
    "deepspeed": ["impact_pl.training.deepspeed"],
    "lightning": ["impact_pl.training", "impact_pl.data.datamodule"],
}


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in SOURCES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if f"{node.module}.{alias.name}" in MODULES}
    return names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def layer(name: str) -> int:
    return LAYERS[max((prefix for prefix in LAYERS if within(name, prefix)), key=len)]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down_only(name):
    own = {target for target in imports(MODULES[name]) if within(target, "impact_pl")}
    upward = {target for target in own if layer(target) > layer(name)}
    assert not upward, f"{name} (layer {layer(name)}) imports {upward}"
    closed = {t for source, banned in FORBIDDEN if within(name, source) for t in own if within(t, banned)}
    assert not closed, f"{name} must not import {closed}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_heavy_frameworks_stay_in_their_rooms(name):
    for package, rooms in ONLY_IN.items():
        if any(within(target, package) for target in imports(MODULES[name])):
            assert any(within(name, room) for room in rooms), f"{name} imports {package}"


def test_every_module_stands_in_a_layer():
    """A new file has to be placed: only the package itself may fall to the catch-all of layer 0."""
    unplaced = [name for name in MODULES if name != "impact_pl" and layer(name) == 0 and name not in LAYERS]
    assert not unplaced
