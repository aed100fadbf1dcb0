"""Every configuration file composes into its dataclasses; mistakes are named."""

from pathlib import Path

import pytest
import yaml

from impact_pl.cli import precompute, train
from impact_pl.cli.compose import compose, field_kinds
from impact_pl.config import PrecomputeConfig, TrainConfig
from impact_pl.errors import UserError

CONF = Path(__file__).parents[2] / "conf"


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_composes(experiment):
    config = compose("train", TrainConfig, [f"experiment={experiment}"])
    assert isinstance(config, TrainConfig)
    assert config.stage in ("pretrain", "text", "distill", "codec")


@pytest.mark.parametrize(("group", "choice"), [(g, c) for g in ("model", "data", "trainer") for c in choices(g)])
def test_every_choice_of_every_group_composes(group, choice):
    config = compose("train", TrainConfig, [f"{group}={choice}"])
    assert isinstance(config, TrainConfig)


def test_overrides_reach_the_dataclass():
    config = compose("train", TrainConfig, ["model=tiny", "model.mask_ratio.kind=fixed", "optim.lr=0.5"])
    assert (config.model.mask_ratio.kind, config.optim.lr) == ("fixed", 0.5)
    assert compose("precompute", PrecomputeConfig, ["clip_seconds=2.5"]).clip_seconds == 2.5


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.dimm=8", "dimm"),
        ("experiment=nonsense", "nonsense"),
        ("model=huge_typo", "huge_typo"),
        ("optim.lr=fast", "optim.lr"),
        ("no equals sign", "no equals sign"),
        ("trainer.max_steps=1.5", "expected a whole number"),
        ("trainer.compile=maybe", "expected true or false"),
        ("optim.betas=[0.9]", "expected 2 values"),
        ("max_steps=5", "did you mean trainer.max_steps?"),
        ("optim=fast", "optim: it is a group of keys, such as optim.lr"),
        ("experiment=pretain", "did you mean experiment=pretrain?"),
        ("+logger=wandb", "write logger=wandb"),
        ("~data", "write data=VALUE"),
        ("data.", "expected key=value"),
        ("--seed=3", "write seed=3"),
        ("+foo=1", "there is no key foo"),
        ("++trainer.max_step=1", "there is no key trainer.max_step; did you mean trainer.max_steps?"),
        ("--max-steps", "without dashes here; did you mean trainer.max_steps?"),
        ("seed", "write seed=VALUE"),
    ],
)
def test_mistakes_are_named(override, named):
    with pytest.raises(ValueError, match="configuration: ") as error:
        compose("train", TrainConfig, [override])
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_choice_lists_the_choices():
    with pytest.raises(
        ValueError, match=r"there is no experiment=nonsense, choose one of base_no_clap, .*codec, demo_pretrain"
    ):
        compose("train", TrainConfig, ["experiment=nonsense"])


def test_an_option_with_dashes_is_told_how_to_write_it():
    with pytest.raises(UserError, match=r"write experiment=pretrain$"):
        compose("train", TrainConfig, ["--experiment", "pretrain", "model=tiny"])


@pytest.mark.parametrize(
    "text",
    [
        "2024_11_30",
        "1.10",
        "0",
        "true",
        "null",
        "",
        "Geräusche/Übung (2)",
        "雨の音",
        "~/sounds #3",
        "a, b",
        "a=b",
        'it\'s "quoted"',
        "${name}",
        "[x]",
        "pipe:aws s3 cp s3://bucket/%s -",
        "C:\\sounds\\",
    ],
)
def test_strings_stay_strings(text):
    assert compose("train", TrainConfig, [f"name={text}"]).name == text
    assert compose("train", TrainConfig, [f"data.path={text}", "experiment=text"]).data.path == text
    assert compose("precompute", PrecomputeConfig, [f"manifest={text}"]).manifest == text


def test_values_have_the_type_of_their_field():
    given = [
        "optim.betas=[0.8,0.9]",
        "data.text_features=[t5, 1.10]",
        "trainer.compile=TRUE",
        "trainer.max_steps=1_000",
    ]
    config = compose("train", TrainConfig, given)
    assert config.optim.betas == (0.8, 0.9)
    assert config.data.text_features == ["t5", "1.10"]
    assert config.trainer.compile is True
    assert config.trainer.max_steps == 1000
    assert compose("train", TrainConfig, ["data.text_features=t5"]).data.text_features == ["t5"]
    assert compose("train", TrainConfig, ["data.text_features=[]"]).data.text_features == []


def test_the_command_line_goes_before_an_experiment_whatever_the_order():
    for given in (["optim.lr=0.5", "experiment=text"], ["experiment=text", "optim.lr=0.5"]):
        assert compose("train", TrainConfig, given).optim.lr == 0.5


def test_loggers_are_chosen_together_and_their_keys_set():
    given = ["logger=[csv,wandb]", "logger.wandb.project=2024_11", "logger.wandb.offline=true"]
    config = compose("train", TrainConfig, given)
    assert config.logger["wandb"]["project"] == "2024_11"
    assert config.logger["wandb"]["offline"] is True
    assert set(config.logger) == {"csv", "wandb"}
    with pytest.raises(UserError, match=r"did you mean logger\.wandb\.project\?"):
        compose("train", TrainConfig, ["logger=wandb", "logger.wandb.projct=x"])
    with pytest.raises(UserError, match="did you mean logger=wandb"):
        compose("train", TrainConfig, ["logger=[csv,wandbb]"])


def test_the_composed_configuration_is_printed_as_yaml(capsys):
    for flag in (["--cfg"], ["--cfg", "job"]):
        train.main([*flag, "experiment=text", "model=tiny", "name=雨", "optim.lr=0.5"])
        printed = yaml.safe_load(capsys.readouterr().out)
        assert (printed["stage"], printed["name"], printed["optim"]["lr"]) == ("text", "雨", 0.5)
        assert printed["optim"]["betas"] == [0.9, 0.95]
    precompute.main(["--cfg", "out=x"])
    assert yaml.safe_load(capsys.readouterr().out)["out"] == "x"


def test_help_lists_groups_and_their_choices_and_every_key(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    said = capsys.readouterr().out
    words = set(said.split())
    for group in ("model", "data", "trainer", "logger", "experiment"):
        assert {group, *choices(group)} <= words
    assert "base (default)" in said
    assert all(f"  {key}=" in said for key in field_kinds(TrainConfig) if key not in ("experiment", "logger"))
