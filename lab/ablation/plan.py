"""Read and validate the plan of an ablation: names and numbers from lab/ablation/conf/.

A *row* is a model, with its training and the decoding of its sounds. A *setting* is another decoding of the row
``full``, named by its differences from the plan's ``decoding``: ``full/num_iterations=4``. Each row and setting exists
once per seed, with the same steps, clips and captions as all others.

A plan may name a trained ``model``. That model becomes the row ``full``, seeds apply to its sounds only, and other rows
name their own models.
"""

import dataclasses
import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field

from impact_pl.config import DecodingConfig
from impact_pl.errors import UserError
from impact_pl.files import check_value

CONF = Path(__file__).parent / "conf"
FULL = "full"  # the row that all others are compared with, and whose sounds the sweeps generate
SETTINGS = "settings"  # name of all settings together, where a row name is expected
OWN, NONE, SKIPPED = "own", "none", "skipped"
OF_THE_METHOD = ("smoke", "quick", "full")  # sizes that cover all claims of the paper
SIZES = (*OF_THE_METHOD, "text", "builtin", "distilled")
Count = Annotated[int, Field(ge=1)]


@dataclass
class ModelPlan:
    """Training and decoding of a row's model.

    Attributes:
        experiment: Experiment of `impact train` for stage 2 (and with stage=pretrain for stage 1).
        train: Further arguments of `impact train`, in both stages.
        pretrain: Stage 1 to start from: ``own``, another row's name, ``none`` (its steps are added to stage 2, so that
            the budget is the same) or ``skipped`` (they are not).
        text: Further arguments of `impact train` in stage 2 only.
        decoding: Differences of its generation from the plan's decoding.
        model: A trained model, a folder or ``builtin``; only in a plan that has a ``model``.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    experiment: str = "text"
    train: list[str] = field(default_factory=list)
    pretrain: str = OWN
    text: list[str] = field(default_factory=list)
    decoding: dict[str, Any] = field(default_factory=dict)
    model: str = ""


@dataclass
class Plan:
    """Plan of an ablation of one size.

    Attributes:
        seeds: Number of seeds. Each seeds a row's training and its sounds.
        clip_seconds: Length of clips and sounds.
        num_samples: Maximum number of held-out captions (from any split except train).
        pretrain_steps, text_steps: Steps of the two stages.
        model: A trained model for the row ``full``, a folder or ``builtin``; empty: rows are trained.
        shortest_seconds: Minimum length of recordings used for training and evaluation. Shorter ones are padded with
            silence, which would dominate a set of short effects.
        num_labelled: How many of the captions have a label, if available, for the class accuracy.
        batch_size: Captions generated at once. Latency is measured with ``speed_batch`` instead.
        train: Arguments of `impact train` for every row and both stages.
        decoding: Fields of DecodingConfig.
        without_encoders: Whether to add a row without each text encoder.
        sweeps: name -> values of one field, or of several fields (every combination).
        combinations: Further settings, one by one.
        speed_batch, speed_repeats: Batch size and repetitions for latency and memory.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    seeds: Count
    clip_seconds: float
    num_samples: Count
    pretrain_steps: int = 0
    text_steps: int = 0
    model: str = ""
    shortest_seconds: float = 0.0
    codec: str = "builtin"
    text_encoder: str = "minilm"
    device: str = "cpu"
    num_labelled: int = 0
    batch_size: Count = 32
    train: list[str] = field(default_factory=list)
    decoding: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, ModelPlan] = field(default_factory=dict)
    without_encoders: bool = True
    sweeps: dict[str, dict[str, list]] = field(default_factory=dict)
    combinations: list[dict[str, Any]] = field(default_factory=list)
    speed_batch: Count = 8
    speed_repeats: Count = 3

    def settings(self) -> dict[str, dict[str, Any]]:
        """Map names to overrides for every setting other than the plan's own decoding, each once."""
        wanted = [
            dict(zip(sweep, values, strict=True))
            for sweep in self.sweeps.values()
            for values in itertools.product(*sweep.values())
        ]
        found = {self.setting_name(overrides): overrides for overrides in [*wanted, *self.combinations]}
        found.pop(FULL, None)
        return found

    def groups(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Group what is evaluated together, a row or all settings; each maps names to fields of DecodingConfig."""
        groups = {name: {name: self.decoding | row.decoding} for name, row in self.rows.items()}
        settings = {name: self.decoding | overrides for name, overrides in self.settings().items()}
        return groups | ({SETTINGS: settings} if settings else {})

    def setting_name(self, overrides: dict[str, Any]) -> str:
        """Name a setting, such as ``full/num_iterations=4,num_diffusion_steps=50``.

        ``full`` if it equals the plan's decoding.
        """
        base, other = decoding_config(self.decoding), decoding_config(self.decoding | overrides)
        values = {each.name: getattr(other, each.name) for each in dataclasses.fields(DecodingConfig)}
        changed = [f"{name}={value}" for name, value in values.items() if value != getattr(base, name)]
        return f"{FULL}/{','.join(changed)}" if changed else FULL

    def resolve(self, name: str) -> str:
        """Normalise the name of a row or setting: ``full/num_iterations=64`` is ``full`` if 64 is the plan's value.

        Raises:
            UserError: It names an unknown field of the decoding.
        """
        row, _, said = name.partition("/")
        pairs = [part.partition("=") for part in said.split(",")]
        return self.setting_name({key: yaml.safe_load(value) for key, _, value in pairs}) if said else row


def load_plan(size: str, **changes: Any) -> Plan:
    """Read lab/ablation/conf/<size>.yaml, apply ``changes``, and validate it.

    Raises:
        UserError: See :func:`make_plan`.
    """
    path = CONF / f"{size}.yaml"
    return make_plan({**yaml.safe_load(path.read_text(encoding="utf-8")), **changes}, f"{size}.yaml")


def make_plan(values: dict[str, Any], where: str) -> Plan:
    """Build a plan from plain values, and add the rows without each text encoder.

    Raises:
        UserError: A key is missing or unknown, or a number is out of range. The message begins with ``where``.
    """
    rows = {name: row or {} for name, row in values.get("rows", {}).items()}
    plan = check_value({**values, "rows": rows}, Plan, where)
    if FULL in plan.rows and plan.without_encoders and not plan.model:
        plan.rows |= rows_without(plan.text_encoder, plan.rows[FULL])
    _check(plan, where)
    return plan


def rows_without(text_encoder: str, full: ModelPlan) -> dict[str, ModelPlan]:
    """Create a row without each text encoder, otherwise trained like ``full`` and from its stage 1.

    If there is only one encoder, no condition remains: every caption is dropped. The row then continues stage 1 for the
    steps of stage 2 and samples the null condition.
    """
    parts = [part.partition(":")[0] for part in text_encoder.split("+")]
    if len(parts) == 1:
        unconditional = full.decoding | {"guidance_scale": 0.0, "guidance_schedule": "constant"}
        dropped = replace(full, pretrain=FULL, text=[*full.text, "data.caption_dropout=1.0"], decoding=unconditional)
        return {f"without_{parts[0]}": dropped}
    features = {part: feature_of(part) for part in parts}
    rows = {}
    for part in parts:
        kept = ",".join(features[each] for each in parts if each != part)
        rows[f"without_{part}"] = replace(full, pretrain=FULL, text=[*full.text, f"data.text_features=[{kept}]"])
    return rows


def feature_of(text_encoder: str) -> str:
    """Return the name of a text encoder's feature in shards."""
    return {"laion_clap": "clap"}.get(text_encoder, text_encoder)


def decoding_config(overrides: dict[str, Any]) -> DecodingConfig:
    """Build a DecodingConfig with some fields set.

    Raises:
        UserError: A field is unknown.
    """
    known = [each.name for each in dataclasses.fields(DecodingConfig)]
    if unknown := sorted(set(overrides) - set(known)):
        raise UserError(f"decoding: there is no {unknown[0]!r}; choose from {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, value in overrides.items():  # YAML's 3 is a guidance_scale of 3.0
        values[name] = float(value) if isinstance(getattr(DecodingConfig, name), float) else value
    return DecodingConfig(**values)


def _check(plan: Plan, where: str) -> None:
    """Check what a schema cannot: rows that name each other, models, and fields of decodings."""
    if FULL not in plan.rows:
        raise UserError(f"{where}: rows need {FULL!r}, with which all others are compared")
    for name, row in plan.rows.items():
        if "/" in name or name in (OWN, NONE, SKIPPED, SETTINGS):
            raise UserError(
                f"{where}: rows.{name}: choose another name, without / and none of own, none, skipped, settings"
            )
        if bool(row.model) != bool(plan.model and name != FULL):
            raise UserError(
                f"{where}: rows.{name}.model = {row.model!r} with model = {plan.model!r}: in a plan with a trained "
                f"model, which {FULL!r} is, every other row names its own; in other plans none does"
            )
        if row.model and row != ModelPlan(decoding=row.decoding, model=row.model):
            raise UserError(f"{where}: rows.{name}: its model is trained already, give a decoding and nothing else")
        if row.pretrain not in (OWN, NONE, SKIPPED) and row.pretrain not in plan.rows:
            choices = ", ".join([OWN, NONE, SKIPPED, *plan.rows])
            raise UserError(f"{where}: rows.{name}.pretrain = {row.pretrain!r}: choose from {choices}")
        if row.pretrain in plan.rows and plan.rows[row.pretrain].pretrain != OWN:
            raise UserError(f"{where}: rows.{name}.pretrain = {row.pretrain!r}, which has no stage 1 of its own")
    if not plan.model and min(plan.pretrain_steps, plan.text_steps) < 1:
        raise UserError(f"{where}: pretrain_steps and text_steps: choose 1 or more")
    for overrides in [plan.decoding, *(row.decoding for row in plan.rows.values()), *plan.settings().values()]:
        decoding_config(overrides)
