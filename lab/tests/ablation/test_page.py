"""The page says what the numbers say."""

import dataclasses
import re
from pathlib import Path

import pytest

from lab.ablation.page import write_page
from lab.ablation.pareto import Point, front, plot_pareto
from lab.ablation.plan import make_plan
from lab.ablation.results import read_results, rounded

DOCS = Path(__file__).parents[3] / "docs"
PLAN = {
    "seeds": 3,
    "clip_seconds": 2.56,
    "num_samples": 8,
    "pretrain_steps": 10,
    "text_steps": 20,
    "decoding": {"num_iterations": 16},
    "rows": {"full": {}, "head_mse": {"experiment": "head_mse"}},
    "sweeps": {"iterations": {"num_iterations": [1, 16]}},
}


def seeds(*values: float) -> dict[str, float]:
    return {str(seed): value for seed, value in enumerate(values)}


@pytest.fixture
def results() -> dict:
    rows = {
        "full": {"fd_yamnet": seeds(40, 41, 42), "kl": seeds(3, 3.1, 3.2), "latency": seeds(2.0, 2.1)},
        "head_mse": {"fd_yamnet": seeds(60, 61.5, 62), "kl": seeds(2.9, 3.2, 3.1), "latency": seeds(0.5, 0.4)},
        "full/num_iterations=1": {"fd_yamnet": seeds(50, 50.5, 52), "latency": seeds(0.2, 0.21)},
    }
    facts = {
        "manifest": "data/m.jsonl",
        "samples": 8,
        "labelled": 4,
        "clips": 99,
        "cores": 2,
        "workers": 2,
        "code": "abc",
        "data": "d",
        "versions": {},
    }
    return {
        "format": 1,
        "size": "quick",
        "facts": facts,
        "plan": dataclasses.asdict(make_plan(PLAN, "here")),
        "reference": {"real": {"fd_yamnet": 20.06}, "codec": {"fd_yamnet": 12.5, "kl": 1.46}, "noise": {"kl": 6.2}},
        "rows": rows,
    }


def test_verdicts_and_tables_come_from_the_numbers(results, tmp_path):
    page = write_page(results, tmp_path).read_text()
    assert "3 comparisons: 2 × holds, 1 × not resolved." in page
    assert "Not as claimed" not in page
    line = next(each for each in page.splitlines() if "direct regression" in each)
    assert "N: FD 15.92 against 25.84" in line
    assert "| 41.0, 61.2 | -20.2 (-20.9 to -19.4) | -19.8 | ✔ holds |" in line
    assert "| `head_mse` | 61.2 ± 1.0<br>60.0 to 62.0 |" in page
    assert "| *real sounds (real-vs-real baseline)* | 20.1 | – | – |" in page
    assert "| `full/num_iterations=1` | 50.8 ± 1.0<br>50.0 to 52.0 | – | 0.21 ± 0.01" in page
    assert "- The small MLP is as good as a heavy attention head. (`full`, `head_attention`)" in page

    results["rows"]["head_mse"]["fd_yamnet"] = seeds(30, 31.5, 32)
    page = write_page(results, tmp_path).read_text()
    assert "3 comparisons: 1 × holds, 1 × reversed, 1 × not resolved." in page
    assert "- The diffusion head is better than direct regression. FD-YAMNet: reversed." in page
    assert "✘ reversed" in next(each for each in page.splitlines() if each.startswith("| The diffusion head"))


def test_the_page_needs_nothing_but_its_folder(results, tmp_path):
    page = write_page(results, tmp_path).read_text()
    for target in re.findall(r"!\[.*?\]\((.*?)\)", page):
        assert (tmp_path / target).is_file()
    assert read_results(tmp_path / "ablation/results.json") == rounded(results)
    table = page.split("## Rows")[1].split("##")[0]
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1


def test_unreadable_results_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_results(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="not the results of an ablation"):
        read_results(tmp_path / "x.json")


def test_the_front_is_what_nothing_beats(tmp_path):
    points = [
        Point(name, *place, 1.0, True) for name, place in {"a": (1, 9), "b": (2, 9), "c": (3, 5), "d": (4, 6)}.items()
    ]
    assert [point.name for point in front(points)] == ["a", "c"]
    plot_pareto([*points, Point("<x>", 5, 8, 0.5, False)], tmp_path / "p.svg", "seconds", "distance")
    svg = (tmp_path / "p.svg").read_text()
    assert all(f">{name}</text>" in svg for name in ("seconds", "distance", *"abcd"))
    assert "&lt;x&gt;" not in svg  # a setting that is not on the front


def test_the_page_of_one_model_speaks_of_its_settings_alone(results, tmp_path):
    plan = PLAN | {"model": "builtin", "rows": {"full": {}}}
    results |= {"size": "builtin", "plan": dataclasses.asdict(make_plan(plan, "here"))}
    del results["rows"]["head_mse"], results["facts"]["clips"]
    path = write_page(results, tmp_path)
    page = path.read_text()
    assert path.name == "ablation_builtin.md"
    assert (tmp_path / "ablation_builtin" / "results.json").is_file()
    assert "(ablation_builtin/pareto.svg)" in page
    assert "model `builtin`, 3 seeds of sounds" in page
    assert "Parallel decoding in iterations is better than a single pass." in page
    assert "Many iterations are better than 4." not in page  # was not run
    for said in ("head_mse", "without_minilm", "make ablation", "steps without text"):
        assert said not in page


def test_the_page_says_what_a_row_of_another_model_is(results, tmp_path):
    rows = {"full": {}, "ddim": {"model": "builtin", "decoding": {"num_diffusion_steps": 20}}}
    results |= {"size": "distilled"}
    results["plan"] = dataclasses.asdict(make_plan(PLAN | {"model": "student", "rows": rows}, "here"))
    results["rows"]["ddim"] = results["rows"].pop("head_mse")
    del results["facts"]["clips"]
    page = write_page(results, tmp_path).read_text()
    assert "`ddim` is the model `builtin` decoded with" in page
    assert "`num_diffusion_steps=20`." in page
    assert "| `ddim` |" in page
    assert "A one-step head is as good as the head that it was made of." in page
    results["size"] = "builtin"
    assert "A one-step head" not in write_page(results, tmp_path).read_text()


def test_the_page_of_one_choice_speaks_of_its_rows_alone(results, tmp_path):
    """A plan that trains, but does not judge the whole method: no claim of other rows, and commands that run it."""
    results["size"] = "text"
    results["plan"]["rows"] = {"full": {}, "text_padding_8": {"text": ["model.text_padding=8"]}}
    results["plan"]["without_encoders"] = False
    results["rows"] = {"full": results["rows"]["full"], "text_padding_8": results["rows"]["full"]}
    page = write_page(results, tmp_path)
    assert page == tmp_path / "ablation_text.md"
    text = page.read_text()
    assert text.startswith("# An ablation of one choice\n")
    assert "`text_padding_8` as good as `full`" in text
    assert "pre-training" not in text
    assert "Not run" not in text
    assert "--only text_padding_8 --seed 1 --out runs/rebuilt --against docs/ablation_text/results.json" in text
    assert make_plan(results["plan"], "here").rows.keys() == {"full", "text_padding_8"}


@pytest.mark.parametrize("name", ["ablation", "ablation_builtin", "ablation_distilled", "ablation_text"])
def test_the_committed_pages_are_made_of_their_results(tmp_path, name):
    page = write_page(read_results(DOCS / name / "results.json"), tmp_path)
    assert page.read_text() == (DOCS / f"{name}.md").read_text()
    assert (DOCS / name / "pareto.svg").is_file()
