"""Property tests: one value of a file or of a command line is changed, and the reader accepts it or says one line."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from impact_pl.cli.compose import compose, field_kinds, read_groups
from impact_pl.config import PrecomputeConfig, TrainConfig
from impact_pl.data.index import ShardIndex
from impact_pl.data.manifest import read_manifest
from impact_pl.evaluation.results import read_metrics
from impact_pl.files import read_json
from impact_pl.models.impact import Impact
from impact_pl.precompute.notes import RunNote
from impact_pl.training.check import check_config
from impact_pl.training.checkpoint import EMA_PREFIX, load_averaged, open_checkpoint
from impact_pl.training.checkpoint_files import write_file
from impact_pl.training.trainer import Progress
from tests.helpers.mutations import DEEP, VALUES, change_value, changes, is_refused_in_one_line, mutated, write_model

CASES = pytest.mark.parametrize("cases", [25, pytest.param(2000, marks=pytest.mark.slow)])
MANIFEST = {"id": "a", "path": "a.wav", "start": 0.5, "duration": 2.0, "caption": "rain", "labels": ["x"]}
INDEX = {
    "format": 1,
    "codec": {"name": "toy", "identity": "0", "sample_rate": 16000, "samples_per_latent": 640},
    "text_encoder": {"name": "m", "identity": "1", "features": {"m": [3, 8]}},
    "latents": {"shape": [2, 3, 1], "mean": [0.0, 0.0], "std": 1.0},
    "clip_seconds": 0.12,
    "shards": [
        {
            "name": "000000.tar",
            "num_samples": 2,
            "bytes": 10240,
            "sha256": "0" * 64,
            "offsets": {"a": 0, "b": 2048},
            "crc32": [1, 2],
        }
    ],
}
METRICS = {
    "num_samples": 10,
    "rows": [{"name": "generated", "fd_yamnet": 3.5, "fd_yamnet_interval": [3.0, 4.0], "kl": None}],
    "test_list": {"name": "tango_886"},
    "networks": {"yamnet": {"fitted_seconds": 5.0}},
    "warnings": ["N is small"],
    "notes": [],
}
RUN = {
    "manifest": "0123456789abcdef",
    "codec": "builtin 0123456789abcdef",
    "text_encoder": None,
    "clip_seconds": 5.12,
    "samples_per_shard": 256,
    "batch_size": 1,
    "padding": "silence",
    "device": "cpu, float32",
    "shards": {"train": 3},
}


def run_cases(cases: int, strategy: st.SearchStrategy, check: Callable[[Any], Any]) -> None:
    quiet = settings(max_examples=cases, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    quiet(given(strategy)(check))()


def check_file(cases: int, content: Any, path: Path, read: Callable[[Path], Any]) -> None:
    """Change ``content`` and read it from ``path``."""

    def check(change: tuple) -> None:
        path.write_text(mutated(content, *change) + "\n")
        is_refused_in_one_line(lambda: read(path))

    run_cases(cases, changes(content), check)


@CASES
def test_config_json(tmp_path, cases):
    path = write_model(tmp_path) / "config.json"
    check_file(cases, json.loads(path.read_text()), path, lambda path: Impact.from_pretrained(path.parent))


def test_unchanged_files_are_read(tmp_path):
    for name, content, read in [
        ("index.json", INDEX, lambda path: ShardIndex.load(path.parent)),
        ("manifest.jsonl", MANIFEST, read_manifest),
        ("metrics.json", METRICS, read_metrics),
        ("run.json", RUN, lambda path: read_json(path, RunNote)),
    ]:
        (tmp_path / name).write_text(json.dumps(content))
        read(tmp_path / name)


@CASES
def test_index_json(tmp_path, cases):
    check_file(cases, INDEX, tmp_path / "index.json", lambda path: ShardIndex.load(path.parent))


@CASES
@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("manifest.jsonl", MANIFEST, read_manifest),
        ("metrics.json", METRICS, read_metrics),
        ("run.json", RUN, lambda path: read_json(path, RunNote)),
    ],
)
def test_notes_in_json(tmp_path, cases, name, content, read):
    check_file(cases, content, tmp_path / name, read)


def checkpoint_content(folder: Path) -> dict[str, Any]:
    """What `impact train` notes in a checkpoint, with the average's weights."""
    model = Impact.from_pretrained(write_model(folder))
    return {
        "hyper_parameters": {"stage": "text", "spec": dataclasses.asdict(model.spec), "config": {"seed": 0}},
        "state_dict": {f"{EMA_PREFIX}{name}": value for name, value in model.state_dict().items()},
        "global_step": 7,
        "callbacks": {"Checkpoints": {"validation_owed": False}},
        "logger_versions": {"csv": "0"},
        "LatentDataModule": {"samples_consumed": 28, "step": 7, "global_batch_size": 4, "seed": 0},
        "skipped_steps": 0,
        "loops": {},
        "optimizer_states": [],
        "lr_schedulers": [],
    }


def nested() -> list:
    """Nesting that torch.save can still write; JSON's goes deeper."""
    deep: list = []
    for _ in range(150):
        deep = [deep]
    return deep


@CASES
def test_notes_of_a_checkpoint(tmp_path, cases):
    content = checkpoint_content(tmp_path)
    path = tmp_path / "last.ckpt"
    assert read_everything(path, content) is False

    def check(change: tuple) -> None:
        changed = copy.deepcopy(content)
        where, kind, new = change
        change_value(changed, where, kind, nested() if new == DEEP else new)
        read_everything(path, changed)

    run_cases(cases, changes(content), check)


def read_everything(path: Path, content: dict) -> bool:
    write_file(content, path)
    refused = is_refused_in_one_line(lambda: load_averaged(path))
    return is_refused_in_one_line(lambda: Progress.of(open_checkpoint(path).content)) or refused


def test_a_folder_of_too_many_shards(tmp_path):
    content = checkpoint_content(tmp_path)
    for number in (10**9, 0, -1, "2", None, True):
        folder = tmp_path / "last.ckpt"
        folder.mkdir(exist_ok=True)
        write_file({"num_shards": number, "checkpoint": content}, folder / "meta.pt")
        assert is_refused_in_one_line(lambda folder=folder: load_averaged(folder))


@CASES
@pytest.mark.parametrize(("name", "schema"), [("train", TrainConfig), ("precompute", PrecomputeConfig)])
def test_overrides(cases, name, schema):
    keys = st.sampled_from([*field_kinds(schema), *read_groups(name), "nonsense", "", "+seed", "--seed", "data.", ".x"])
    overrides = st.tuples(keys, st.sampled_from(["=", "", "=="]), st.one_of(VALUES.map(str), st.text(max_size=20)))

    def check(override: tuple) -> None:
        is_refused_in_one_line(lambda: check_composed(name, schema, "".join(override)))

    run_cases(cases, overrides, check)


def check_composed(name: str, schema: type, override: str) -> None:
    config = compose(name, schema, [override])
    if isinstance(config, TrainConfig):
        check_config(config)


def test_a_refused_checkpoint_names_field_value_and_remedy(tmp_path):
    content = checkpoint_content(tmp_path)
    path = tmp_path / "last.ckpt"
    for change, message in [
        (lambda c: c["hyper_parameters"]["spec"]["model"].update(depth=10**6), "model.depth': input should be less"),
        (lambda c: c["hyper_parameters"]["spec"]["model"].update(surprise=1), "unknown key 'model.surprise'"),
        (lambda c: c["hyper_parameters"]["spec"].update(latent_std=torch.ones(1)), "not a specification"),
        (
            lambda c: c["hyper_parameters"].update(config=None),
            "key 'hyper_parameters.config': input should be a valid dict",
        ),
        (lambda c: c.update(global_step=-1), "key 'global_step': input should be greater than or equal to 0, got -1"),
        (lambda c: c["state_dict"].update({EMA_PREFIX + "null_cond": "x"}), "is a str, not a tensor under a name"),
        (lambda c: c["state_dict"].pop(EMA_PREFIX + "null_cond"), "its weights do not fit its specification"),
    ]:
        changed = copy.deepcopy(content)
        change(changed)
        write_file(changed, path)
        with pytest.raises(ValueError, match=r"last\.ckpt") as caught:
            load_averaged(path)
        assert message in str(caught.value)
