"""What finished tasks measured, put together; and what measures speed."""

import json
from pathlib import Path

import pytest

from lab.ablation import speed
from lab.ablation.plan import make_plan
from lab.ablation.results import collect
from lab.ablation.run import finish
from lab.ablation.tasks import Places, Task, plan_tasks

PLAN = {
    "seeds": 2,
    "clip_seconds": 1.0,
    "num_samples": 4,
    "pretrain_steps": 1,
    "text_steps": 1,
    "decoding": {"num_iterations": 16},
    "rows": {"full": {}, "head_mse": {"experiment": "head_mse"}},
    "sweeps": {"iterations": {"num_iterations": [1, 4]}},
}


def end(task: Task, out: Path) -> None:
    """As if the task's commands had run: figures that tell which row of which evaluation they are."""
    if task.result is None:
        return finish(task, out, 1.0)
    task.result.parent.mkdir(parents=True, exist_ok=True)
    if task.phase == "speed":
        task.result.write_text(json.dumps({"latency": [2.0, 3.0], "memory": 100.0, "threads": 2}))
    else:
        names = ["real", *task.subjects, "noise"] if task.subjects else ["real", "generated", "noise"]
        rows = [
            {"name": name, "fd_yamnet": 10.0 * index + (task.seed or 0), "kl": None} for index, name in enumerate(names)
        ]
        task.result.write_text(json.dumps({"rows": rows, "num_samples": 4}))
    return finish(task, out, 1.0)


def test_figures_find_their_row_and_seed(tmp_path):
    (tmp_path / "m.jsonl").write_text("{}")
    plan = make_plan(PLAN, "here")
    tasks = plan_tasks(plan, Places(tmp_path / "m.jsonl", tmp_path / "m.jsonl", tmp_path / "out"))
    for task in tasks:
        if task.name != "seed1/settings/figures":
            end(task, tmp_path / "out")
    results = collect(plan, "quick", tasks, tmp_path / "out", {"labelled": 0})
    assert results["facts"]["samples"] == 4
    assert {name: row["fd_yamnet"] for name, row in results["reference"].items()} == {
        "real": 0,
        "codec": 10,
        "noise": 20,
    }
    assert list(results["rows"]) == [
        *("full", "head_mse", "without_minilm", "full/num_iterations=1", "full/num_iterations=4"),
    ]
    assert results["rows"]["head_mse"]["fd_yamnet"] == {"0": 10.0, "1": 11.0}
    assert results["rows"]["full/num_iterations=4"]["fd_yamnet"] == {"0": 20.0}  # the other seed has not come so far
    assert results["rows"]["full"]["latency"] == {"0": 2.0, "1": 3.0}
    assert results["rows"]["full"]["memory"] == {"0": 100.0}
    assert "kl" not in results["rows"]["full"]


def test_speed_is_that_of_generation(trained, tmp_path, run, capsys):
    model = ["--model", trained / "text" / "model", "--duration", "1.0", "--batch-size", "2", "--repeats", "2"]
    few, many = '{"num_iterations": 1, "num_diffusion_steps": 1}', '{"num_iterations": 16, "num_diffusion_steps": 40}'
    for name, decoding in {"few": few, "many": many}.items():
        assert run(speed.main, *model, "--decoding", decoding, "--out", tmp_path / f"{name}.json") == 0
    few, many = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("few", "many"))
    assert len(few["latency"]) == len(many["latency"]) == 2
    assert min(many["latency"]) > max(few["latency"])
    assert few["memory"] >= 0
    assert run(speed.main, *model, "--decoding", '{"steps": 1}', "--out", tmp_path / "x.json") == 2
    assert "there is no 'steps'" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["latents", "seed0/head_mse/text"])
def test_what_stands_on_another_result_is_unfinished(tmp_path, task):
    """The key of a task changes with everything before it, and with nothing else."""
    manifest = tmp_path / "m.jsonl"
    places = Places(manifest, manifest, tmp_path / "out")
    manifest.write_text("{}")
    before = {each.name: each.key for each in plan_tasks(make_plan(PLAN, "here"), places)}
    if task == "latents":
        manifest.write_text("{ }")
        after = plan_tasks(make_plan(PLAN, "here"), places)
        assert all(each.key != before[each.name] for each in after)
    else:
        rows = {"full": {}, "head_mse": {"experiment": "head_mse", "text": ["optim.lr=1"]}}
        after = plan_tasks(make_plan(PLAN | {"rows": rows}, "here"), places)
        changed = {each.name for each in after if each.key != before[each.name]}
        assert changed == {task, "seed1/head_mse/text", "speed/head_mse/base"} | {
            f"seed{seed}/head_mse/{what}" for seed in (0, 1) for what in ("sounds/base", "figures")
        }
