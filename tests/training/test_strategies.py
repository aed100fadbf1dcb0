"""Every strategy does the same training, shards what it says, and continues every other strategy's checkpoints.

Two processes train what needs two, all in one go (they take seconds to start); the tests look at what they have left.
"""

import dataclasses
import itertools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from impact_pl.config import LoraConfig
from impact_pl.training.checkpoint import export, find_checkpoint, load_averaged, open_checkpoint, read_checkpoint
from impact_pl.training.checkpoint_files import find
from tests.helpers.latents import write_latents
from tests.helpers.launch import command
from tests.helpers.strategies import (
    HAS_DEEPSPEED,
    ROWS,
    configuration,
    difference,
    losses,
    table,
    train,
    train_together,
    weights,
)

needs_deepspeed = pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is not installed (extra [deepspeed])")
SHARED = ["ddp", "fsdp2", *["deepspeed"] * HAS_DEEPSPEED]  # strategies of several processes
STRATEGIES = [pytest.param(name, marks=needs_deepspeed if name == "deepspeed" else ()) for name in SHARED]
STEPS = 8
TOUR = ["ddp", "fsdp2", "deepspeed", "ddp", "deepspeed", "fsdp2", "ddp"]  # every ordered pair
TOUR = [name for name, _ in itertools.groupby(name for name in TOUR if name in SHARED)]


def until(root: Path, name: str, strategy: str, processes: int, step: int, **trainer):
    return configuration(root, name, strategy, processes, max_steps=step, **trainer)


def distilled(root: Path, name: str, strategy: str, processes: int, step: int):
    """The run ``one`` with a one-step head."""
    config = until(root, f"{name}-distilled", strategy, processes, step)
    model = dataclasses.replace(config.model, head="consistency")
    return dataclasses.replace(config, stage="distill", model=model, init_from=str(root / "one"))


def adapted(root: Path, name: str, strategy: str, processes: int, step: int):
    """Adapters of the run ``one``."""
    config = until(root, f"{name}-adapted", strategy, processes, step)
    return dataclasses.replace(config, lora=LoraConfig(rank=2, alpha=4.0), init_from=str(root / "one"))


def copy_run(root: Path, name: str, to: str) -> None:
    shutil.copytree(root / name, root / to)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, notes by run's name); the runs: see the lists below."""
    root = tmp_path_factory.mktemp("strategies")
    write_latents(root / "latents")
    notes = {"one": [train(until(root, "one", "auto", 1, STEPS))]}
    train(until(root, "start", "auto", 1, 3))
    for name in SHARED:
        copy_run(root, "start", f"{name}-after-one")
    configs = [until(root, name, name, 2, STEPS) for name in SHARED]
    configs += [until(root, f"{name}-resumed", name, 2, step) for name in SHARED for step in (4, STEPS)]
    configs += [until(root, f"{name}-after-one", name, 2, 6) for name in SHARED]
    configs += [until(root, "tour", name, 2, 1 + i) for i, name in enumerate(TOUR)]
    configs += [until(root, f"{name}-bf16", name, 2, 3, precision="bf16-mixed") for name in SHARED]
    configs += [until(root, f"{name}-recomputed", name, 2, 3, activation_checkpointing=True) for name in SHARED]
    train(distilled(root, "one", "auto", 1, 4))
    configs += [distilled(root, name, name, 2, step) for name in SHARED for step in (2, 4)]
    for name in SHARED:
        config = until(root, f"{name}-burst", name, 2, 4, checkpoint_every_steps=1)
        configs.append(dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=1e30, warmup_steps=1)))
    results = train_together(configs, 2, root / "work")
    return root, notes | {config.name: result for config, result in zip(configs, results, strict=True)}


@pytest.fixture(scope="module")
def root(trained) -> Path:
    return trained[0]


@pytest.fixture(scope="module")
def notes(trained) -> dict:
    return trained[1]


def run_weights(root: Path, name: str, prefix: str = "") -> dict[str, torch.Tensor]:
    return weights(until(root, name, "auto", 1, 1), prefix)


@pytest.mark.parametrize("name", STRATEGIES)
def test_two_processes_equal_one(root, notes, name):
    """Losses, gradient norms (which are above the clip), weights and their average."""
    assert torch.allclose(losses(notes[name]), losses(notes["one"]), rtol=0, atol=1e-5)
    expected = torch.tensor(notes["one"][0]["norms"])
    assert expected.min() > 0.5  # clipped in every step
    for process in notes[name]:
        assert torch.allclose(torch.tensor(process["norms"]), expected, rtol=1e-5)
    assert difference(run_weights(root, name), run_weights(root, "one")) < 1e-5


def test_fsdp2_shards_everything(notes):
    whole = notes["one"][0]["bytes"]
    for what in ("parameters", "gradients", "average", "optimizer"):
        shares = [process["bytes"][what] for process in notes["fsdp2"]]
        assert sum(shares) == pytest.approx(whole[what], rel=0.01), what  # each has the steps' counters
        assert max(shares) < 0.55 * whole[what]


@needs_deepspeed
def test_zero_shards_gradients_and_optimizer(notes):
    """Half of the optimizer's state and of the float32 weights that it steps on; model and average are whole."""
    whole = notes["one"][0]["bytes"]
    for process in notes["deepspeed"]:
        sizes = process["bytes"]
        assert sizes["parameters"] == sizes["average"] == whole["parameters"]
        assert sizes["gradients"] == pytest.approx(whole["parameters"] / 2, rel=0.01)
        assert sizes["optimizer"] == pytest.approx(whole["parameters"] * 3 / 2, rel=0.01)


@pytest.mark.parametrize("name", STRATEGIES)
def test_distillation_continues_in_two_processes_as_in_one(root, name):
    """Its teacher is whole everywhere, and in the checkpoint."""
    mine, other = (run_weights(root, f"{run}-distilled") for run in (name, "one"))
    assert any(weight.startswith("teacher.head.") for weight in mine)
    assert difference(mine, other) < 1e-5


@pytest.mark.parametrize("name", STRATEGIES)
def test_resume_is_bitwise(root, name):
    mine, other = (read_checkpoint(find_checkpoint(root / run)) for run in (f"{name}-resumed", name))
    assert difference(mine["state_dict"], other["state_dict"]) == 0
    states = [checkpoint["optimizer_states"][0] for checkpoint in (mine, other)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for parameter, values in states[0]["state"].items():
        assert difference(values, states[1]["state"][parameter]) == 0
    assert mine["LatentDataModule"] == other["LatentDataModule"]


def test_strategies_continue_each_other(root, notes):
    """One training in which every strategy takes over from every other, step by step."""
    assert difference(run_weights(root, "tour"), run_weights(root, "one")) > 1e-3  # of later steps
    copy_run(root, "tour", "tour-end")
    train(until(root, "tour-end", "auto", 1, STEPS))
    assert difference(run_weights(root, "tour-end"), run_weights(root, "one")) < 1e-5


@pytest.mark.parametrize("name", STRATEGIES)
def test_one_process_and_two_continue_each_other(root, name):
    copy_run(root, f"{name}-after-one", f"{name}-one-again")
    train(until(root, f"{name}-one-again", "auto", 1, STEPS))
    assert difference(run_weights(root, f"{name}-one-again"), run_weights(root, "one")) < 1e-5


@pytest.mark.parametrize("name", STRATEGIES)
def test_model_folder_is_the_average(root, notes, name, tmp_path):
    """The folder of the training's end, that of impact export, and what the processes themselves generate with it."""
    export(root / name, tmp_path / "model")
    exported = load_averaged(tmp_path / "model")
    for model in (exported, load_averaged(root / name / "model")):
        average = {f"ema.model.{key}": value for key, value in model.state_dict().items()}
        assert difference(average, run_weights(root, name, "ema.")) == 0
    for process in notes[name]:
        assert len(process["generated"]) > 0
    assert notes[name][0]["generated"] == pytest.approx(notes["one"][0]["generated"], abs=1e-3)


@pytest.mark.parametrize("name", STRATEGIES)
def test_bf16_mixed_is_the_same_autocast(notes, name):
    found = losses(notes[f"{name}-bf16"])
    assert torch.allclose(found, losses(notes["ddp-bf16"]), rtol=0, atol=1e-4)
    assert 1e-5 < float((found - losses(notes["one"])[:3]).abs().max()) < 1e-2


@pytest.mark.parametrize("name", STRATEGIES)
def test_activation_checkpointing_changes_nothing(notes, name):
    """The second forward draws the same dropout."""
    assert torch.allclose(losses(notes[f"{name}-recomputed"]), losses(notes[name])[:3], rtol=0, atol=1e-6)
    norms = [torch.tensor(notes[run][0]["norms"][:3]) for run in (f"{name}-recomputed", name)]
    assert torch.allclose(*norms, rtol=1e-6)


@pytest.mark.parametrize("name", STRATEGIES)
def test_non_finite_gradients_stop_before_the_optimizer(root, notes, name):
    for process in notes[f"{name}-burst"]:
        assert "training stopped at step" in process["error"]
        assert "clip0" in process["error"]
    assert all(torch.isfinite(value).all() for value in run_weights(root, f"{name}-burst").values())


@pytest.mark.slow
def test_adapters_in_two_processes_equal_one_and_resume(root):
    """Each strategy trains, stops and resumes them; the merged model is that of one process."""
    pytest.importorskip("peft", reason="extra 'tune' is not installed")
    train(adapted(root, "one", "auto", 1, 4))
    configs = [adapted(root, name, name, 2, step) for name in SHARED for step in (2, 4)]
    for notes in train_together(configs, 2, root / "work-adapted"):
        assert [process["error"] for process in notes] == [None, None]
    expected = load_averaged(root / "one-adapted" / "model").state_dict()
    assert difference(expected, load_averaged(root / "one").state_dict()) > 1e-4  # it has learned
    for name in SHARED:
        found = load_averaged(root / f"{name}-adapted" / "model").state_dict()
        assert difference(found, expected) < 1e-5


@pytest.mark.slow
def test_three_processes_continue_two(root):
    """Rows of every weight are cut anew."""
    configs = []
    for name in SHARED:
        copy_run(root, f"{name}-after-one", f"{name}-three")
        configs.append(until(root, f"{name}-three", name, 3, STEPS))
    train_together(configs, 3, root / "work3")
    for config in configs:
        assert difference(weights(config), run_weights(root, "one")) < 1e-5


@pytest.mark.slow
def test_compiled_blocks_compute_the_same_when_sharded_and_recomputed(root):
    """Without dropout, which compiled code draws otherwise."""
    eager = until(root, "eager", "auto", 1, 4)
    eager.model.dropout = 0.0
    compiled = until(root, "compiled", "fsdp2", 2, 4, compile=True, activation_checkpointing=True)
    compiled.model.dropout = 0.0
    expected = losses([train(eager)])
    (notes,) = train_together([compiled], 2, root / "work4")
    assert torch.allclose(losses(notes), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_table_keeps_its_bounds(tmp_path, capsys):
    assert table(tmp_path) == 0
    assert capsys.readouterr().out.count("|\n") == 3 + len(ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_killed_at_random_moments(root, name):
    """kill -9 to both processes, which checkpoint after every step: always resumable, and in the end the same."""
    config = until(root, f"{name}-killed", name, 2, STEPS, checkpoint_every_steps=1)
    random = torch.Generator().manual_seed(len(name))
    for _ in range(4):
        process = start_alone(config)
        before = stamp(config)
        while process.poll() is None and stamp(config) == before:
            time.sleep(0.01)
        time.sleep(float(torch.rand((), generator=random)) * 0.3)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = find(last(config))
        assert found is not None
        assert open_checkpoint(found).content["global_step"] >= 1
    assert start_alone(config).wait(timeout=300) == 0
    assert difference(weights(config), run_weights(root, name)) == 0


def start_alone(config) -> subprocess.Popen:
    """In a process group of its own, so that all of it can be killed at once."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(config), env=environment, start_new_session=True, stdout=subprocess.DEVNULL)


def last(config) -> Path:
    return Path(config.runs_dir) / config.name / "checkpoints" / "last.ckpt"


def stamp(config) -> int | None:
    """Changes with every new checkpoint."""
    try:
        return last(config).stat().st_ino
    except FileNotFoundError:
        return None
