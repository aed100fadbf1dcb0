"""Every configuration file composes into its dataclasses; mistakes are named."""

from pathlib import Path

import pytest

from impact_pl.cli.compose import compose
from impact_pl.config import PrecomputeConfig, TrainConfig

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
        ("data.text_features=t5", "it takes a list, write data.text_features=[t5]"),
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
