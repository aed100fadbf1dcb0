"""Plans: checked when read, rows and settings named, and every command that they lead to one that parses."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from impact_pl.audio import save_audio
from impact_pl.cli import evaluate, generate, reconstruct
from impact_pl.cli.compose import compose
from impact_pl.config import PRESETS, DecodingConfig, PrecomputeConfig, TrainConfig, with_preset
from impact_pl.data.manifest import Record, read_manifest, write_manifest
from impact_pl.models.impact import Impact
from impact_pl.models.spec import find_model
from lab.ablation import speed
from lab.ablation.clips import choose_clips, write_clips
from lab.ablation.plan import SETTINGS, SIZES, ModelPlan, decoding_config, load_plan, make_plan, rows_without
from lab.ablation.tasks import Places, Task, plan_tasks, select
from lab.ablation.verdicts import load_claims

SMALL = {
    "seeds": 2,
    "clip_seconds": 1.28,
    "num_samples": 4,
    "pretrain_steps": 10,
    "text_steps": 20,
    "decoding": {"num_iterations": 16, "guidance_scale": 3},
    "rows": {
        "full": None,
        "shared": {"pretrain": "full", "train": ["model.head=mse"]},
        "more_text": {"pretrain": "none"},
        "less": {"pretrain": "skipped"},
    },
    "sweeps": {"grid": {"num_iterations": [4, 16], "guidance_scale": [1, 3.0]}},
    "combinations": [{"order": "confidence"}, {"num_iterations": 4}],
}


MODEL = find_model("builtin")  # by the name of its folder
PARSERS = {"generate": generate, "evaluate": evaluate, "reconstruct": reconstruct, "speed": speed}


def small(**changes) -> dict:
    return {**copy.deepcopy(SMALL), **changes}


@pytest.fixture
def places(tmp_path):
    for name in ("m.jsonl", "captions.jsonl"):
        (tmp_path / name).write_text('{"id": "a", "path": "a.wav"}\n')
    return Places(tmp_path / "m.jsonl", tmp_path / "captions.jsonl", tmp_path / "out")


def commands(tasks: list[Task]) -> list[tuple[str, list[str]]]:
    return [(module, list(arguments)) for task in tasks for module, *arguments in task.commands]


ELSEWHERE = {"device": "cuda", "text_encoder": "laion_clap:a.pt+t5:flan"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "changes"),
    [*((size, {}) for size in SIZES if size != "distilled"), ("full", ELSEWHERE), ("distilled", {"model": "builtin"})],
)
def test_every_command_of_every_size_parses(size, changes, places):
    for module, arguments in commands(plan_tasks(load_plan(size, **changes), places)):
        if module.endswith("train"):
            config = compose("train", TrainConfig, arguments)
            assert config.trainer.max_steps > 0
            assert Path(config.data.path).name == "latents"
            assert config.trainer.accelerator == ("gpu" if changes else "cpu")
        elif module.endswith("precompute"):
            compose("precompute", PrecomputeConfig, arguments)
        else:
            parser = PARSERS[module.split(".")[-1]]
            parser.build_parser().parse_args(arguments)


def test_names_of_settings_say_what_differs():
    plan = make_plan(small(), "here")
    assert list(plan.settings()) == [
        "full/num_iterations=4,guidance_scale=1.0",
        "full/num_iterations=4",
        "full/guidance_scale=1.0",
        "full/order=confidence",
    ]
    assert plan.resolve("full/num_iterations=16") == "full"
    assert plan.resolve("full/guidance_scale=1,num_iterations=4") == "full/num_iterations=4,guidance_scale=1.0"
    assert plan.resolve("less") == "less"


def test_equal_budgets_and_shared_stages(places):
    tasks = {task.name: task for task in plan_tasks(make_plan(small(), "here"), places)}
    steps = {
        name: next(each for each in task.commands[0] if each.startswith("trainer.max_steps="))
        for name, task in tasks.items()
        if task.phase in ("pretrain", "text") and task.seed == 1
    }
    assert steps == {
        "seed1/full/pretrain": "trainer.max_steps=10",
        "seed1/full/text": "trainer.max_steps=20",
        "seed1/shared/text": "trainer.max_steps=20",
        "seed1/more_text/text": "trainer.max_steps=30",  # the budget of both stages
        "seed1/less/text": "trainer.max_steps=20",
        "seed1/without_minilm/text": "trainer.max_steps=20",
    }
    assert tasks["seed1/full/pretrain"] in tasks["seed1/shared/text"].needs
    assert f"init_from={places.out}/seed1/full/pretrain" in tasks["seed1/without_minilm/text"].commands[0]
    assert "init_from=" in tasks["seed1/more_text/text"].commands[0]


def test_one_row_of_one_seed_brings_what_it_needs(places):
    tasks = plan_tasks(make_plan(small(), "here"), places)
    assert [task.name for task in select(tasks, "shared", 1)] == [
        "latents",
        "reference",
        "seed1/full/pretrain",
        "seed1/shared/text",
        "seed1/shared/sounds/base",
        "seed1/shared/figures",
    ]
    with pytest.raises(ValueError, match=r"no row 'head_mse' of seed 1; rows are full, shared.* seeds 0 to 1"):
        select(tasks, "head_mse", 1)


def test_a_setting_is_told_from_others_in_one_evaluation(places):
    tasks = {task.name: task for task in plan_tasks(make_plan(small(), "here"), places)}
    figures = tasks["seed0/settings/figures"]
    assert figures.subjects == {
        "generated": "full/num_iterations=4,guidance_scale=1.0",
        "num_iterations 4": "full/num_iterations=4",
        "guidance_scale 1.0": "full/guidance_scale=1.0",
        "order confidence": "full/order=confidence",
    }
    arguments = evaluate.build_parser().parse_args(figures.commands[0][1:])
    folders = evaluate.parse_baselines(arguments.baseline)
    assert folders["num_iterations 4"] == places.out / "seed0/settings/sounds/num_iterations=4"
    assert list(folders) == list(figures.subjects)[1:]


def test_without_each_text_encoder():
    (alone,) = rows_without("minilm", ModelPlan(experiment="mine")).values()
    assert (alone.experiment, alone.pretrain, alone.text) == ("mine", "full", ["data.caption_dropout=1.0"])
    assert alone.decoding["guidance_scale"] == 0
    both = rows_without("laion_clap:a.pt+t5:flan", ModelPlan(text=["a=1"]))
    assert {name: row.text for name, row in both.items()} == {
        "without_laion_clap": ["a=1", "data.text_features=[t5]"],
        "without_t5": ["a=1", "data.text_features=[clap]"],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 3}, "here: unknown key 'seed'"),
        ({"seeds": 0}, "here: key 'seeds': input should be greater than or equal to 1, got 0"),
        ({"rows": {"head_mse": {}}}, "here: rows need 'full'"),
        ({"rows": {"full": {"head": "mse"}}}, "here: unknown key 'rows.full.head'"),
        ({"rows": {"full": {}, "a": {"pretrain": "b"}}}, "rows.a.pretrain = 'b': choose from own, none, skipped, full"),
        ({"rows": {"full": {}, "a": {"pretrain": "skipped"}, "b": {"pretrain": "a"}}}, "'a', which has no stage 1"),
        ({"rows": {"full": {"pretrain": "none"}}}, "rows.without_minilm.pretrain = 'full', which has no stage 1"),
        ({"rows": {"full": {}, "a/b": {}}}, "rows.a/b: choose another name"),
        ({"decoding": {"iterations": 4}}, "decoding: there is no 'iterations'; choose from num_iterations"),
        ({"sweeps": {"a": {"steps": [1]}}}, "decoding: there is no 'steps'"),
        (
            {"sweeps": {"a": {"num_iterations": 4}}},
            "'sweeps.a.num_iterations': input should be a valid list",
        ),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        make_plan(small(**change), "here")


def test_a_missing_key_is_named():
    values = small()
    del values["seeds"]
    with pytest.raises(ValueError, match="here: key 'seeds' is missing"):
        make_plan(values, "here")


def test_claims_are_about_rows_that_are_run():
    """But for the one that needs CLAP, every claim has both its sides in its own size, or in the full one."""
    plans = {size: load_plan(size) for size in SIZES}
    known = {size: {*plan.rows, *plan.settings()} for size, plan in plans.items()}
    sides = [(claim.size or "full", name) for claim in load_claims() for name in claim.pair]
    unknown = {name for size, name in sides if plans[size].resolve(name) not in known[size]}
    assert unknown == {"without_laion_clap"}


def test_the_preset_fast_is_a_setting():
    plan = load_plan("full")
    settings = [decoding_config(plan.decoding | overrides) for overrides in plan.settings().values()]
    assert decoding_config(plan.decoding | PRESETS["fast"]) in settings


@pytest.mark.parametrize("size", SIZES)
def test_sounds_are_decoded_as_the_plan_says_and_not_as_the_model(size, places):
    plan = load_plan(size, **({"model": "builtin"} if size == "distilled" else {}))
    own = DecodingConfig(min_alpha_bar=0.0, temperature=0.5, order="confidence", num_iterations=3)
    subjects = {name: decoding for group in plan.groups().values() for name, decoding in group.items()}
    folders = {}
    for module, arguments in commands(plan_tasks(plan, places)):
        if module == "impact_pl.cli.generate":
            args = generate.build_parser().parse_args(arguments)
            given = {field: getattr(args, field) for field, _ in generate.DECODING.values()}
            assert None not in given.values()
            folders[tuple(args.out.parts[-3:])] = dataclasses.replace(own, **given)
    wanted = {name: decoding_config(decoding) for name, decoding in subjects.items()}
    for name, decoding in wanted.items():
        group, _, short = name.partition("/")
        place = (SETTINGS if short else group, "sounds", short or "base")
        assert folders[place] == decoding


def test_a_given_model_is_decoded_and_nothing_is_trained(places, tmp_path):
    tasks = plan_tasks(load_plan("builtin"), places)
    assert {task.phase for task in tasks} == {"data", "sounds", "metrics", "speed"}
    assert not [task for task in tasks if task.name == "latents"]
    assert {args[args.index("--model") + 1] for _, args in commands(tasks) if "--model" in args} == {"builtin"}
    decoding = load_plan("builtin").groups()["settings"].values()
    own = Impact.from_pretrained("builtin").spec.own_decoding
    assert decoding_config(load_plan("builtin").decoding) == dataclasses.replace(own, precision="32-true")
    assert dataclasses.replace(with_preset(own, "fast", {})) in [decoding_config(each) for each in decoding]
    with pytest.raises(ValueError, match=r"there is no .*config\.json; name a model's folder, or builtin"):
        plan_tasks(load_plan("builtin", model=str(tmp_path)), places)
    with pytest.raises(ValueError, match="every other row names its own"):
        load_plan("quick", model="builtin")


def test_a_row_may_name_another_model(places):
    plan = load_plan("distilled", model="builtin")
    given = {
        (task.group, args[args.index("--model") + 1])
        for task in plan_tasks(dataclasses.replace(plan, model=str(MODEL)), places)
        for _, args in commands([task])
        if "--model" in args
    }
    own = Impact.from_pretrained("builtin").spec.own_decoding
    decodings = {row: decoding_config(plan.decoding | plan.rows[row].decoding) for row in plan.rows}
    assert decodings["teacher"] == dataclasses.replace(own, precision="32-true")
    assert decodings["teacher_fast"] == with_preset(own, "fast", {})
    silent = dataclasses.replace(own, solver="ddim", temperature=1.0)
    assert decodings["ddim_fast"] == with_preset(silent, "fast", {})
    assert decodings["ddim"] == dataclasses.replace(silent, num_diffusion_steps=20, precision="32-true")
    rows = {row for row in plan.rows if row != "full"}
    assert given == {(row, "builtin") for row in rows} | {("full", str(MODEL)), (SETTINGS, str(MODEL))}
    with pytest.raises(ValueError, match=r"rows\.teacher\.model = 'builtin' with model = ''"):
        make_plan(small(rows={"full": None, "teacher": {"model": "builtin"}}), "here")
    with pytest.raises(ValueError, match=r"rows\.teacher: its model is trained already"):
        make_plan(small(model="builtin", rows={"full": None, "teacher": {"model": "b", "pretrain": "none"}}), "here")
    missing = make_plan(small(model="builtin", rows={"full": None, "teacher": {"model": "nowhere"}}), "here")
    with pytest.raises(ValueError, match=r"rows\.teacher\.model = nowhere: there is no nowhere/config\.json"):
        plan_tasks(missing, places)
    with pytest.raises(ValueError, match="every other row names its own"):
        make_plan(small(model="builtin", rows={"full": None, "other": None}), "here")


def test_another_model_in_the_same_folder_is_another_one(places, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("a")
    plan = make_plan(small(model=str(tmp_path), rows={"full": None}), "here")
    before = {task.name: task.key for task in plan_tasks(plan, places)}
    (tmp_path / "model.safetensors").write_text("b")
    after = {task.name: task.key for task in plan_tasks(plan, places)}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == set(before) - {"reference"}


def test_short_recordings_are_left_out(tmp_path):
    for name, seconds in (("short", 0.5), ("long", 1.5)):
        save_audio(tmp_path / f"{name}.wav", torch.zeros(round(seconds * 16_000)), 16_000)
    records = [Record("short", "short.wav"), Record("long", "long.wav"), Record("part", "long.wav", duration=0.5)]
    write_manifest(tmp_path / "m.jsonl", records)
    write_clips(make_plan(small(shortest_seconds=1.0), "here"), tmp_path / "m.jsonl", tmp_path / "out/clips.jsonl")
    assert [record.id for record in read_manifest(tmp_path / "out/clips.jsonl")] == ["long"]
    with pytest.raises(ValueError, match="no recording lasts 9 s"):
        write_clips(make_plan(small(shortest_seconds=9.0), "here"), tmp_path / "m.jsonl", tmp_path / "none.jsonl")


def test_labelled_clips_come_first():
    records = [Record(f"c{i}", f"{i}.wav", caption="x", split="valid") for i in range(20)]
    for record in records[:5]:
        record.labels = ("dog",)
    records.append(Record("t", "t.wav", caption="x"))
    plan = make_plan(small(num_samples=8, num_labelled=4), "here")
    chosen = choose_clips(plan, records, "m.jsonl")
    assert len(chosen) == 8
    assert sum(bool(record.labels) for record in chosen) >= 4
    assert chosen == [record for record in records if record in chosen]  # in the manifest's order
    assert chosen == choose_clips(plan, records, "m.jsonl")
    with pytest.raises(ValueError, match=r"m\.jsonl: 0 captioned clips in the splits valid and test"):
        choose_clips(plan, records[-1:], "m.jsonl")


def test_plans_are_plain_yaml(places):
    """A plan survives results.json: it is read from there again for the page."""
    plan = load_plan("quick")
    again = make_plan(yaml.safe_load(yaml.safe_dump(dataclasses.asdict(plan))), "results.json")
    assert again == plan
