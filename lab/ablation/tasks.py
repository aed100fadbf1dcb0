"""Plan the tasks of an ablation: commands of this project that run separately and can be repeated by hand.

A task is finished when its result was written for the same commands and the same results of the preceding tasks, which
its key identifies.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from impact_pl.errors import UserError
from impact_pl.identity import files_sha256
from impact_pl.models.spec import FILES, find_model, read_spec
from lab.ablation.plan import FULL, NONE, OWN, SETTINGS, SKIPPED, ModelPlan, Plan, decoding_config

Command = tuple[str, ...]  # a module with main(arguments), and the arguments
PHASES = ("data", "pretrain", "text", "sounds", "metrics", "speed")  # in order of execution
FLAGS = {"num_iterations": "iterations", "num_diffusion_steps": "diffusion-steps", "guidance_scale": "guidance"}


@dataclass(frozen=True)
class Task:
    """A step of the ablation.

    Attributes:
        name: Such as ``seed1/head_mse/text``.
        phase: One of PHASES.
        commands: Commands to run in order, in one process.
        needs: Tasks of earlier phases that it depends on.
        group: The model that it belongs to, or ``settings``; None: all of them.
        seed: The seed that it belongs to; None: all of them.
        result: JSON file written by the commands, which becomes part of the task's result.
        subjects: Row in the result -> model or setting that it describes.
        inputs: Checksum of other inputs that determine the result.
        outputs: Folders in which its commands continue existing work.
    """

    name: str
    phase: str
    commands: tuple[Command, ...]
    needs: tuple["Task", ...] = ()
    group: str | None = None
    seed: int | None = None
    result: Path | None = None
    subjects: dict[str, str] = field(default_factory=dict)
    inputs: str = ""
    outputs: tuple[Path, ...] = ()

    @cached_property
    def key(self) -> str:
        """Checksum of the commands and of everything before them."""
        content = json.dumps([self.commands, [task.key for task in self.needs], self.inputs])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Places:
    """Paths of the ablation.

    Attributes:
        manifest: Manifest of all clips that are used.
        captions: Manifest of those whose captions are generated.
        out: Folder of the ablation.
    """

    manifest: Path
    captions: Path
    out: Path

    @property
    def latents(self) -> Path:
        return self.out / "latents"

    @property
    def real(self) -> Path:
        return self.out / "real"

    @property
    def reconstructed(self) -> Path:
        return self.out / "reconstructed"


@dataclass(frozen=True)
class Model:
    """Model that sounds are generated with.

    Attributes:
        folder: Argument for `impact generate`.
        needs: Tasks that create it.
        inputs: Checksum of a model that existed before.
    """

    folder: str
    needs: tuple[Task, ...] = ()
    inputs: str = ""


def plan_tasks(plan: Plan, places: Places) -> list[Task]:
    """List all tasks, each after its dependencies."""
    reference = reference_task(plan, places)
    data = [reference] if plan.model else [latents_task(plan, places), reference]
    stages: list[Task] = []
    judged: list[Task] = []
    speeds: list[Task] = []
    for seed in range(plan.seeds):
        trained = {} if plan.model else train_tasks(plan, places, seed, data[0])
        stages += trained.values()
        for group, subjects in plan.groups().items():
            model = model_of(plan, places, trained, seed, FULL if group == SETTINGS else group)
            judged += sounds_tasks(plan, places, seed, group, subjects, model, reference)
            speeds += speed_tasks(plan, places, group, subjects, model) if seed == 0 else []
    return [*data, *stages, *judged, *speeds]


def model_of(plan: Plan, places: Places, trained: dict[str, Task], seed: int, row: str) -> Model:
    """Return the row's or the plan's model, or else the one trained for the row.

    Raises:
        UserError: The folder that the plan names has no model.
    """
    folder = plan.rows[row].model or plan.model
    if not folder:
        name = f"seed{seed}/{row}/text"
        return Model(str(places.out / name / "model"), (trained[name],))
    files = [find_model(folder) / file for file in FILES]
    if missing := [file for file in files if not file.is_file()]:
        who = f"rows.{row}.model = {folder}" if plan.rows[row].model else f"--model {folder}"
        raise UserError(f"{who}: there is no {missing[0]}; name a model's folder, or builtin")
    return Model(folder, inputs=files_sha256(files))


def codec_of(model: str) -> str:
    """Return the codec that a model folder names."""
    return str(read_spec(find_model(model) / "config.json").codec["name"])


def latents_task(plan: Plan, places: Places) -> Task:
    """Create the task that precomputes latents."""
    precompute = (
        "impact_pl.cli.precompute", f"manifest={places.manifest}", f"out={places.latents}",
        f"clip_seconds={plan.clip_seconds}", f"codec={plan.codec}", f"text_encoder={plan.text_encoder}",
        f"device={plan.device}",
    )  # fmt: skip
    return Task("latents", "data", (precompute,), inputs=checksum(places.manifest), outputs=(places.latents,))


def reference_task(plan: Plan, places: Places) -> Task:
    """Create the task that evaluates the real sounds and the codec's reconstructions."""
    reconstruct = (
        "impact_pl.cli.reconstruct", "--manifest", str(places.captions), "--duration", str(plan.clip_seconds),
        "--codec", plan.codec, "--real", str(places.real), "--reconstructed", str(places.reconstructed),
    )  # fmt: skip
    result = places.out / "reference.json"
    evaluate = evaluation(plan, places, places.reconstructed, result)
    inputs = checksum(places.manifest) + checksum(places.captions)
    outputs = (places.real, places.reconstructed)
    return Task("reference", "data", (reconstruct, evaluate), result=result, inputs=inputs, outputs=outputs)


def train_tasks(plan: Plan, places: Places, seed: int, latents: Task) -> dict[str, Task]:
    """Create the tasks of both stages for every row, by name. Rows may share a stage 1."""
    tasks: dict[str, Task] = {}
    for name, row in plan.rows.items():
        if row.pretrain == OWN:
            task = f"seed{seed}/{name}/pretrain"
            stage = ["stage=pretrain", "init_from=", f"trainer.max_steps={plan.pretrain_steps}", *row.train]
            command = train_command(plan, places, seed, task, row, stage)
            tasks[task] = Task(task, "pretrain", (command,), (latents,), name, seed, outputs=(places.out / task,))
    for name, row in plan.rows.items():
        task = f"seed{seed}/{name}/text"
        needs: tuple[Task, ...] = (latents,)
        start = ""
        if row.pretrain not in (NONE, SKIPPED):
            before = tasks[f"seed{seed}/{name if row.pretrain == OWN else row.pretrain}/pretrain"]
            needs, start = (latents, before), str(places.out / before.name)
        steps = plan.text_steps + (plan.pretrain_steps if row.pretrain == NONE else 0)
        stage = [f"init_from={start}", f"trainer.max_steps={steps}", *row.train, *row.text]
        command = train_command(plan, places, seed, task, row, stage)
        tasks[task] = Task(task, "text", (command,), needs, name, seed, outputs=(places.out / task,))
    return tasks


def train_command(plan: Plan, places: Places, seed: int, name: str, row: ModelPlan, stage: Sequence[str]) -> Command:
    return (
        "impact_pl.cli.train", f"experiment={row.experiment}", f"runs_dir={places.out}", f"name={name}",
        f"data.path={places.latents}", f"trainer={'cpu' if plan.device == 'cpu' else 'gpu'}", f"seed={seed}",
        *plan.train, *stage,
    )  # fmt: skip


def sounds_tasks(
    plan: Plan, places: Places, seed: int, group: str, subjects: dict[str, dict], model: Model, reference: Task
) -> list[Task]:
    """Create the tasks that generate the sounds of a row or of all settings, and evaluate them together."""
    tasks = []
    for subject, decoding in subjects.items():
        name = f"seed{seed}/{group}/sounds/{short_name(subject)}"
        command = (
            "impact_pl.cli.generate", "--captions-file", str(places.captions), "--out", str(places.out / name),
            "--model", model.folder, "--duration", str(plan.clip_seconds),
            "--format", "flac", "--batch-size", str(plan.batch_size), "--device", plan.device, "--seed", str(seed),
            *flags(decoding),
        )  # fmt: skip
        outputs = (places.out / name,)
        tasks.append(Task(name, "sounds", (command,), model.needs, group, seed, inputs=model.inputs, outputs=outputs))
    name = f"seed{seed}/{group}/figures"
    result = places.out / f"{name}.json"
    first, *others = tasks
    rows = {short_name(subject).replace("=", " "): subject for subject in subjects}  # --baseline NAME=DIR allows one =
    baselines = [f"{label}={places.out / task.name}" for label, task in zip(list(rows)[1:], others, strict=True)]
    command = evaluation(plan, places, places.out / first.name, result, baselines)
    rows = {"generated" if index == 0 else label: subject for index, (label, subject) in enumerate(rows.items())}
    return [*tasks, Task(name, "metrics", (command,), (reference, *tasks), group, seed, result, rows)]


def speed_tasks(plan: Plan, places: Places, group: str, subjects: dict[str, dict], model: Model) -> list[Task]:
    """Create the tasks that measure latency and memory of each row or setting, on the first seed's model."""
    tasks = []
    for subject, decoding in subjects.items():
        name = f"speed/{group}/{short_name(subject)}"
        result = places.out / f"{name}.json"
        command = (
            "lab.ablation.speed", "--model", model.folder, "--out", str(result),
            "--duration", str(plan.clip_seconds), "--batch-size", str(plan.speed_batch),
            "--repeats", str(plan.speed_repeats), "--device", plan.device, "--decoding", json.dumps(decoding),
        )  # fmt: skip
        needs, inputs = model.needs, model.inputs
        tasks.append(Task(name, "speed", (command,), needs, group, 0, result, {"": subject}, inputs=inputs))
    return tasks


def short_name(subject: str) -> str:
    """Shorten the name of a row or setting: ``num_iterations=4``; ``base`` is a row's own decoding."""
    return subject.partition("/")[2] or "base"


def evaluation(plan: Plan, places: Places, sounds: Path, result: Path, baselines: Sequence[str] = ()) -> Command:
    """Build the command that compares folders of sounds with the real ones, with the training clips as baseline."""
    return (
        "impact_pl.cli.evaluate", "--generated", str(sounds), "--reference", str(places.real),
        "--floor", str(places.manifest), "--floor-split", "train", "--captions", str(places.captions),
        "--duration", str(plan.clip_seconds), "--out", str(result),
        *(word for baseline in baselines for word in ("--baseline", baseline)),
    )  # fmt: skip


def flags(decoding: dict) -> list[str]:
    """Convert all of DecodingConfig to options of `impact generate`, because omitted ones use the model's values."""
    pairs = [
        (FLAGS.get(name, name.replace("_", "-")), value) for name, value in asdict(decoding_config(decoding)).items()
    ]
    return [said for name, value in pairs for said in (f"--{name}", str(value))]


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def select(tasks: Sequence[Task], group: str, seed: int | None) -> list[Task]:
    """Select the tasks of one row (or of ``settings``), for one or all seeds, with their dependencies.

    Raises:
        UserError: There is no such row or seed.
    """
    wanted = [task for task in tasks if task.group == group and seed in (None, task.seed)]
    if not wanted:
        known = ", ".join(dict.fromkeys(str(task.group) for task in tasks if task.phase == "metrics"))
        seeds = max(task.seed for task in tasks if task.seed is not None)
        which = f"row {group!r}" + ("" if seed is None else f" of seed {seed}")
        raise UserError(f"--only: there is no {which}; rows are {known}, seeds 0 to {seeds}")
    needed = {task.name for task in wanted}
    for task in reversed(tasks):  # dependents come after their dependencies
        if task.name in needed:
            needed |= {each.name for each in task.needs}
    return [task for task in tasks if task.name in needed]
