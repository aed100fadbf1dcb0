"""Tune a model to a folder of recordings: every stage from the files to the page, made of the separate commands' parts.

The folder of a tuning holds what each stage leaves, and a stage whose result is there is skipped. An interrupted tuning
therefore continues, and ends with what an uninterrupted one ends with:

    tune.json      the request
    clips.json, manifest.jsonl
    latents/       own clips, encoded
    replay/        sounds of the starting model
    plan.json      steps, learning rate
    train/         run directory of the training; best/ is the model with the lowest held-out loss
    model/         the tuned model, with its card
    sounds/        before and after
    tune.html
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from impact_pl.config import DataConfig, LoraConfig, OptimConfig, PrecomputeConfig, TrainConfig, TrainerConfig
from impact_pl.data.index import ShardIndex
from impact_pl.data.manifest import write_manifest
from impact_pl.data.shards import LatentDataset
from impact_pl.errors import UserError
from impact_pl.files import STRICT, read_json
from impact_pl.hub import without_downloads
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.models.impact import Impact
from impact_pl.models.spec import BUILTIN, find_model
from impact_pl.partial import create_whole, write_whole
from impact_pl.precision import find_device
from impact_pl.precompute.precompute import Precomputer, load_models
from impact_pl.training.best import ADAPTER, KeepBest
from impact_pl.training.check import is_inside
from impact_pl.training.checkpoint import save_model
from impact_pl.training.fit import train
from impact_pl.tuning.card import write_card
from impact_pl.tuning.clips import Clips, prepare_clips
from impact_pl.tuning.outcome import distinct, show_outcome
from impact_pl.tuning.plan import PATIENCE, REPLAY_SHARE, Plan, make_plan, time_step
from impact_pl.tuning.replay import known_captions, write_replay

Note = TypeVar("Note")
Say = Callable[[str], None]
OWN_REPLAY, NO_REPLAY = "model", "none"
PAGE_SECONDS = 240.0  # reserved for the sounds of the page
ACCELERATORS = {"cpu": "cpu", "cuda": "gpu"}


@dataclass
class TuneRequest:
    """What to tune, on what, and for how long. All of it is noted, since the result depends on it."""

    __pydantic_config__ = STRICT

    folder: str  # of recordings
    name: str  # of the tuned model; its folder is runs_dir/name
    source: str = BUILTIN  # builtin, a model folder, or hub:ID
    captions: str | None = None  # .csv or .jsonl; None: captions.csv in the folder, if it is there
    runs_dir: str = "runs"
    minutes: float = 45.0
    steps: int | None = None  # None: by the amount of data
    replay: str = OWN_REPLAY  # against forgetting: model (its own sounds), none, or a folder of shards with train/
    lora: int = 0  # rank of adapters; 0: train all weights
    licence: str = ""  # of clips without one of their own
    device: str = "auto"
    seed: int = 0

    @property
    def out(self) -> Path:
        return Path(self.runs_dir) / self.name


@dataclass(frozen=True)
class TuneResult:
    """Result of a tuning. ``page`` is None if the training was stopped; the same call continues it."""

    model: Path
    page: Path | None
    exit_code: int = 0


def tune(request: TuneRequest, say: Say, commands: str = "") -> TuneResult:
    """Run or continue a tuning.

    Args:
        request: What to do.
        say: Called with a line on every stage.
        commands: The command line, for the page.

    Raises:
        UserError: The user can fix it: the folder, its files, the model, or a folder of another tuning.
    """
    begun = time.monotonic()
    request = settle(request)
    source = Impact.from_pretrained(request.source)
    if source.spec.text_encoder is None:
        raise UserError(f"--from {request.source}: a model of stage 1, which takes no captions: train stage text first")
    known = known_captions(request.source) if request.replay == OWN_REPLAY else []
    out = request.out
    if (out / "tune.json").is_file():
        claim(request)
    device = find_device(request.device)
    clip_seconds = source.spec.num_frames * source.spec.codec["samples_per_latent"] / source.spec.codec["sample_rate"]
    say(f"1/5 clips of {request.folder}, cut at silences, cleaned, and split by source")
    clips = _clips(request, clip_seconds)
    say(f"    {describe_clips(clips)}; what was left out is listed in {out / 'clips.json'}")
    say("2/5 latents and text features, and sounds of the starting model against forgetting")
    _encode(request, source, out, clip_seconds, device)
    replay = _replay(request, known, out, device)
    shares = REPLAY_SHARE if replay else 0.0

    def decide() -> Plan:
        per_step = time_step(source, source.spec.num_frames, device)
        left = 60 * request.minutes - (time.monotonic() - begun) - PAGE_SECONDS
        own = len(LatentDataset(out / "latents" / "train"))
        return make_plan(
            own, source.spec.model.dim, per_step, max(60.0, left), shares, request.steps, bool(request.lora)
        )

    plan = note(out / "plan.json", Plan, decide)
    say(
        f"3/5 at most {plan.steps} steps of {plan.batch_size} clips ({plan.replay_share:.0%} replayed), learning rate "
        f"{plan.lr:g}: about {plan.steps * plan.seconds_per_step / 60:.1f} min, less if the held-out loss stops falling"
    )
    best = out / "train" / "best"
    result = train(train_config(request, source, plan, replay, device), [KeepBest(best, PATIENCE)])
    if result.exit_code or not (best / "config.json").is_file():
        return TuneResult(out / "model", None, result.exit_code)
    save_model(Impact.from_pretrained(best), out / "model")
    if request.lora:
        shutil.copytree(best / ADAPTER, out / ADAPTER, dirs_exist_ok=True)
        say(f"    the adapter alone is in {out / ADAPTER}: impact generate --adapter {out / ADAPTER} --strength 0.7")
    facts = {
        "Starting model": request.source,
        "Clips": describe_clips(clips),
        "Training": f"{result.step} steps of {plan.batch_size} clips, learning rate {plan.lr:g}, seed {request.seed}",
        "Replay": f"{plan.replay_share:.0%} of every batch" if replay else "none",
    }
    write_card(out / "model", request.name, request.source, clips.records, distinct([*_own(clips), *known]), facts)
    say(f"4/5 the model is in {out / 'model'}; making sounds before and after, with the same captions and seeds")
    page = show_outcome(request.source, out, clips, known, replay, device, facts, commands)
    say(f"5/5 {out / 'tune.html'}: {page.summary}")
    return TuneResult(out / "model", out / "tune.html")


def settle(request: TuneRequest) -> TuneRequest:
    """Make paths complete, and check what can be checked at once.

    Raises:
        UserError: A setting is invalid, or a file is missing.
    """
    if not is_inside(request.name):
        raise UserError(f"--name {request.name}: name a folder inside {request.runs_dir}, such as --name mine")
    if request.replay not in (OWN_REPLAY, NO_REPLAY):
        ShardIndex.load(Path(request.replay) / "train")  # a mistake is told before anything is done
        request = replace(request, replay=str(Path(request.replay).resolve()))
    if Path(request.source).is_dir():
        request = replace(request, source=str(Path(request.source).resolve()))
    folder = Path(request.folder)
    captions = Path(request.captions) if request.captions else folder / "captions.csv"
    if request.captions is None and not captions.is_file():
        return replace(request, folder=str(folder.resolve()))
    if not captions.is_file():
        raise UserError(f"--captions {captions}: no such file")
    return replace(request, folder=str(folder.resolve()), captions=str(captions.resolve()))


def claim(request: TuneRequest) -> None:
    """Note the request in its folder, or check that an earlier call noted the same.

    ``minutes`` and ``device`` may change: the plan keeps what they decided.

    Raises:
        UserError: The folder holds another tuning.
    """
    path = request.out / "tune.json"
    if not path.is_file():
        request.out.mkdir(parents=True, exist_ok=True)
        if create_whole(path, json.dumps(asdict(request), indent=1) + "\n"):
            return
    before = asdict(read_json(path, TuneRequest, remedy=f"delete {request.out} to begin again"))
    for key, value in asdict(request).items():
        if key not in ("minutes", "device", "runs_dir") and before[key] != value:
            raise UserError(
                f"{request.out} was begun with {key} {before[key]}, not {value}: choose another --name, or delete that "
                "folder to begin again"
            )


def note(path: Path, kind: type[Note], make: Callable[[], Note]) -> Note:
    """Read what an earlier call has written to ``path``, or make and write it."""
    if not path.is_file():
        made = make()
        write_whole(path, json.dumps(asdict(made), ensure_ascii=False, indent=1) + "\n")  # type: ignore[call-overload]
    return read_json(path, kind, remedy="delete that file to make it again")


def describe_clips(clips: Clips) -> str:
    seconds = sum(record.duration or 0 for record in clips.records)
    return (
        f"{len(clips.records)} clips of {seconds / 60:.1f} min ({len(clips.split('train'))} to train on, "
        f"{len(clips.split('valid'))} held out), "
        f"{len(clips.left_out)} left out, {len(clips.named)} files captioned by name"
    )


def _own(clips: Clips) -> list[str]:
    return [record.caption for record in clips.records if record.caption]


def _clips(request: TuneRequest, clip_seconds: float) -> Clips:
    """Read the clips of an earlier call, or prepare them. A folder that cannot be used leaves nothing behind."""
    out, captions = request.out, Path(request.captions) if request.captions else None
    path = out / "clips.json"
    if path.is_file():
        return read_json(path, Clips, remedy=f"delete {out} to begin again")
    clips = prepare_clips(Path(request.folder), captions, clip_seconds, request.licence)
    claim(request)
    write_manifest(out / "manifest.jsonl", clips.records)
    return note(path, Clips, lambda: clips)


def _encode(request: TuneRequest, source: Impact, out: Path, clip_seconds: float, device: str) -> None:
    assert source.spec.text_encoder is not None
    config = PrecomputeConfig(
        manifest=str(out / "manifest.jsonl"),
        out=str(out / "latents"),
        codec=source.spec.codec["name"],
        text_encoder=source.spec.text_encoder["name"],
        clip_seconds=clip_seconds,
        padding="repeat",
        device=device,
    )
    with without_downloads():  # the model folder names them, not the user
        models = load_models(config)
    Precomputer(config, *models).run()


def _replay(request: TuneRequest, captions: list[str], out: Path, device: str) -> Path | None:
    """Return the folder of the shards to replay, after generating them if they are the model's own sounds."""
    if request.replay == NO_REPLAY:
        return None
    if request.replay != OWN_REPLAY:
        return Path(request.replay) / "train"
    pipeline = ImpactPipeline.from_pretrained(request.source, device)
    write_replay(pipeline, captions, out / "latents" / "train", out / "replay")
    return out / "replay"


def train_config(request: TuneRequest, source: Impact, plan: Plan, replay: Path | None, device: str) -> TrainConfig:
    """Configure the training: shape and decoding are the starting model's."""
    decoding = replace(source.spec.own_decoding, engine="reference")
    return TrainConfig(
        name="train",
        stage="text",
        runs_dir=str(request.out),
        seed=request.seed,
        init_from=str(find_model(request.source)),
        model=source.spec.model,
        data=DataConfig(
            path=str(request.out / "latents"),
            batch_size=plan.batch_size,
            random_shift=True,
            replay="" if replay is None else str(replay),
            replay_share=plan.replay_share,
        ),
        trainer=TrainerConfig(
            accelerator=ACCELERATORS.get(device.partition(":")[0], "auto"),
            max_steps=plan.steps,
            validate_every_steps=plan.validate_every,
            checkpoint_every_steps=plan.validate_every,
        ),
        lora=LoraConfig(rank=request.lora, alpha=2.0 * request.lora or 1.0),
        optim=OptimConfig(lr=plan.lr, warmup_steps=plan.warmup_steps, decay_steps=plan.decay_steps, ema_decay=0.999),
        decoding=decoding,
        logger={"csv": {}},
    )
