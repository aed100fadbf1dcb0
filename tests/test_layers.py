"""The layer rule: an import stays in its room or goes to a lower floor, and no files import each other in a circle.

Every import counts, those inside functions too; only ``if TYPE_CHECKING`` is left out of the circles.
"""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {"impact_pl": ROOT / "src" / "impact_pl", "lab": ROOT / "lab", "data_prep": ROOT / "data_prep"}

FLOORS = [  # from the ground up; the modules of the ground floor may import each other
    "config errors secrets files partial audio spectrogram precision progress randomness registry hub identity"
    " checkpoint_io assets conf _torchaudio",
    "sampling codecs text_encoders",
    "data models",
    "datasets precompute inference",
    "training evaluation portable",
    "tuning serving",
    "cli",
    "__main__",
]
FLOOR_OF = {f"impact_pl.{room}": number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
FLOOR_OF |= {"impact_pl": len(FLOORS), "lab": len(FLOORS) + 1, "data_prep": len(FLOORS) + 1}
ONLY_IN = {  # third-party package -> the rooms and modules that may import it
    "hydra": ["impact_pl.cli"],
    "omegaconf": ["impact_pl.cli"],
    "deepspeed": ["impact_pl.training.deepspeed"],
    "gradio": ["impact_pl.serving.app"],
    "lightning": ["impact_pl.training", "impact_pl.data.datamodule"],
}


def find_modules() -> dict[str, Path]:
    found = {}
    for package, folder in SOURCES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return {name: path for name, path in found.items() if not name.startswith("lab.tests")}


MODULES = find_modules()
TESTS = sorted(path for folder in (ROOT / "tests", ROOT / "lab") for path in folder.rglob("*.py"))


def imports(path: Path, with_typing: bool = True) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = set()
    if not with_typing:
        blocks = [
            node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ]
        typing = {id(node) for block in blocks for node in ast.walk(block)}
    names = set()
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= members & MODULES.keys() or {node.module}
    return names


def imported_names(path: Path) -> set[str]:
    """Every part of every name that a file imports: ``from a.b import c`` gives a, b and c."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {part for alias in node.names for part in alias.name.split(".")}
            names |= set((getattr(node, "module", None) or "").split("."))
    return names


def room(name: str) -> str:
    return ".".join(name.split(".")[: 2 if name.startswith("impact_pl.") else 1])


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_to_a_lower_floor(name):
    own = room(name)
    assert own in FLOOR_OF, f"give {own} a floor"
    others = {target for target in imports(MODULES[name]) if room(target) in FLOOR_OF and room(target) != own}
    others.discard("impact_pl")  # importing the package itself runs its __init__, which every import does
    ground = FLOOR_OF[own] == 0
    wrong = {target for target in others if FLOOR_OF[room(target)] >= FLOOR_OF[own] + ground}
    assert not wrong, f"{name} (floor {FLOOR_OF[own]}) imports {wrong}"


def test_no_files_import_each_other_in_a_circle():
    graph = {name: (imports(path, with_typing=False) & MODULES.keys()) - {name} for name, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("name", sorted(MODULES))
def test_heavy_frameworks_stay_in_their_rooms(name):
    if room(name) in ("lab", "data_prep"):
        return
    for package, rooms in ONLY_IN.items():
        if any(target.split(".")[0] == package for target in imports(MODULES[name])):
            assert any(name == place or name.startswith(f"{place}.") for place in rooms), f"{name} imports {package}"


@pytest.mark.parametrize("name", sorted(name for name in MODULES if room(name) not in ("lab", "data_prep")))
def test_the_package_needs_nothing_from_around_it(name):
    around = {target for target in imports(MODULES[name]) if target.split(".")[0] in ("tests", "lab", "data_prep")}
    assert not around


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_imports_another(path):
    """What two of them need is in tests/helpers, and fixtures are found without an import."""
    assert not {name for name in imported_names(path) if name.startswith("test_") or name == "conftest"}
