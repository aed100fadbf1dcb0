"""Change one value in what a file holds, and check that its reader accepts it or refuses it in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from impact_pl.config import ModelConfig
from impact_pl.errors import UserError
from impact_pl.models.impact import Impact
from impact_pl.models.spec import ImpactSpec

DEEP = "DEEP"  # stands for nesting that only text can hold
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2**31, 2**63, 10**100, 1e308, -1e-300, float("nan"), float("inf"), "", "../x", DEEP]),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


def places(value: Any, here: tuple = ()) -> list[tuple]:
    """List the paths of all values inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, each in inner for path in [(*here, key), *places(each, (*here, key))]]


def mutated(value: Any, path: tuple, change: str, new: Any) -> str:
    """Write ``value`` as JSON with one value replaced, removed, or joined by another."""
    value = json.loads(json.dumps(value))
    change_value(value, path, change, new)
    return json.dumps(value).replace(f'"{DEEP}"', "[" * 5000 + "]" * 5000)


def change_value(value: Any, path: tuple, change: str, new: Any) -> None:
    """Replace, remove or join by another the value at ``path``, in place."""
    owner = value
    for key in path[:-1]:
        owner = owner[key]
    if change == "replace":
        owner[path[-1]] = new
    elif change == "remove":
        del owner[path[-1]]
    elif isinstance(owner, dict):
        owner["surprise"] = new
    else:
        owner.append(new)


def changes(value: Any) -> st.SearchStrategy[tuple]:
    return st.tuples(st.sampled_from(places(value)), st.sampled_from(["replace", "remove", "add"]), VALUES)


def is_refused_in_one_line(read: Callable[[], Any]) -> bool:
    try:
        read()
    except UserError as error:
        said = str(error)
    else:
        return False
    assert "\n" not in said
    assert len(said) < 1200
    return True


def write_model(folder: Path) -> Path:
    """Write the folder of a tiny model."""
    config = ModelConfig(dim=16, depth=1, num_heads=2, head_width=16, head_depth=1, max_patches=8)
    codec = {"name": "toy", "identity": "0", "sample_rate": 16000, "samples_per_latent": 640}
    text = {"name": "m", "identity": "1"}
    Impact(ImpactSpec(config, 4, 1, [0.0] * 4, 1.0, {"m": (3, 8)}, codec, text)).save_pretrained(folder)
    return folder
