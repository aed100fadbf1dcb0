"""Every experiment composes, has the paper's numbers where it reproduces a row, and trains at reduced size."""

import csv
import json
import math
import operator
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from impact_pl.cli.compose import compose
from impact_pl.cli.generate import build_parser
from impact_pl.config import DecodingConfig, TrainConfig
from impact_pl.data.shards import ShardIndex, ShardWriter, describe_shard
from impact_pl.inference.generate import generate
from impact_pl.models.impact import Impact
from impact_pl.text_encoders.base import TextFeatures
from impact_pl.training.fit import train
from lab.ablation import __main__ as ablation
from tests.helpers.recipes import REDUCED

ROOT = Path(__file__).parents[1]
OF_CODECS = ("codec", "vocoder")  # tests/training/test_codec_training.py
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml") if path.stem not in OF_CODECS)
ROWS = ("mar_init", "pretrain_audioset", "pretrain_audioset_large", "pretrain_ac_wc")
ROWS += ("base_t32_ac_wc", "base_t64_audioset", "large_t64_audioset", "base_no_pretrain", "base_no_clap")
ROWS += ("base_single_pass",)
FEATURES = {"clap": (1, 512), "t5": (77, 1024)}
CHANNELS, FRAMES, WIDTH = 8, 32, 16  # AudioLDM's latents, an eighth of 10.24 s: 32 patches of 128 numbers


def write_split(folder: Path, num_clips: int, seed: int) -> None:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    with ShardWriter(folder / "000000.tar") as writer:
        for i in range(num_clips):
            mean = torch.randn(CHANNELS, FRAMES, WIDTH, generator=generator)
            features = {
                "clap": torch.randn(1, 512, generator=generator),
                "t5": torch.randn(5 + i % 8, 1024, generator=generator),
            }
            meta = {"id": f"clip{i}", "caption": f"sound {i}", "source": "", "licence": "", "split": folder.name}
            writer.add(f"clip{i:03d}", torch.cat([mean, torch.full_like(mean, 0.1)]), features, meta)
    codec = {"name": "audioldm", "identity": "0" * 16, "sample_rate": 16000, "samples_per_latent": 640}
    text_encoder = {"name": "clap+t5", "identity": "1" * 16, "features": {k: list(v) for k, v in FEATURES.items()}}
    latents = {"shape": [CHANNELS, FRAMES, WIDTH], "mean": [0.0] * CHANNELS, "std": 1.0}
    ShardIndex(codec, text_encoder, latents, 1.28, [describe_shard(folder / "000000.tar")]).save(folder)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Latents and text features of the paper's shapes, 12 clips to train and 4 held out."""
    folder = tmp_path_factory.mktemp("shards")
    write_split(folder / "train", 12, 1)
    write_split(folder / "valid", 4, 2)
    return folder


@pytest.fixture(scope="module")
def mar_file(tmp_path_factory) -> Path:
    """A MAR checkpoint of width 32 and depth 2."""
    golden = load_file(ROOT / "tests" / "golden" / "mar_parity.safetensors")
    path = tmp_path_factory.mktemp("mar") / "mar.safetensors"
    save_file({k.removeprefix("weights."): v for k, v in golden.items() if k.startswith("weights.")}, path)
    return path


@pytest.fixture(scope="module")
def stage1(shards, tmp_path_factory):
    """head -> the run directory of its stage 1, trained when it is first asked for.

    Of "builtin" it is that of the shipped model and the demo; of "text" and "builtin_text" a whole model.
    """
    runs, done = tmp_path_factory.mktemp("stage1"), {}

    def run_of(head: str) -> Path:
        if head not in done:
            arguments = ["experiment=pretrain", f"model.head={head}"]
            if head == "builtin":
                arguments = ["experiment=builtin_pretrain"]
            if head == "text":
                arguments = ["experiment=text", f"init_from={run_of('diffusion')}"]
            if head == "builtin_text":
                arguments = ["experiment=builtin_text", f"init_from={run_of('builtin')}"]
            assert train(configure([*arguments, f"name={head}"], shards, runs)).exit_code == 0
            done[head] = runs / head
        return done[head]

    return run_of


def configure(arguments: list[str], shards: Path, runs: Path) -> TrainConfig:
    return compose("train", TrainConfig, [*arguments, *REDUCED, f"data.path={shards}", f"runs_dir={runs}"])


def features_of(model: Impact) -> TextFeatures | None:
    """What the whole text encoder gives for two captions, whichever of it the model takes."""
    if not model.spec.text_features:
        return None
    features = {k: torch.randn(2, *v, generator=torch.Generator().manual_seed(3)) for k, v in FEATURES.items()}
    return TextFeatures(features, torch.ones(2, 78, dtype=torch.bool))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_trains_and_generates(experiment, shards, stage1, mar_file, tmp_path):
    wanted = compose("train", TrainConfig, [f"experiment={experiment}"])
    arguments = [f"experiment={experiment}"]
    if wanted.init_from.startswith("mar:"):
        arguments.append(f"init_from=mar:{mar_file}")
    elif wanted.init_from:
        starts = dict.fromkeys(("builtin_text", "demo_text"), "builtin") | {"distill": "text"}
        starts |= dict.fromkeys(("builtin_distill", "builtin_continue"), "builtin_text")
        arguments.append(f"init_from={stage1(starts.get(experiment, wanted.model.head))}")
    config = configure(arguments, shards, tmp_path)
    assert train(config).exit_code == 0

    run_dir = tmp_path / wanted.name
    rows = list(csv.DictReader((run_dir / "metrics.csv").open()))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
    assert math.isfinite(float(rows[-1]["valid/loss"]))

    model = Impact.from_pretrained(run_dir / "model")
    assert model.spec.model.head == wanted.model.head
    assert model.spec.model.mask_ratio == wanted.model.mask_ratio
    names = (wanted.data.text_features or list(FEATURES)) if wanted.stage != "pretrain" else []
    assert list(model.spec.text_features) == names
    decoding = DecodingConfig(num_iterations=2, num_diffusion_steps=3, order=wanted.decoding.order, confidence_steps=2)
    latents = generate(model, features_of(model), FRAMES, 2, decoding, torch.Generator().manual_seed(0))
    assert latents.shape == (2, CHANNELS, FRAMES, WIDTH)
    assert torch.isfinite(latents).all()


IMPACT, SIZES, AUDIOMNTP, MAR = "IMPACT", "IMPACT App. D", "AudioMNTP's AudioMAR row", "MAR's code"
PUBLISHED = [  # key, value, where it is published
    ("optim.lr", 5e-5, IMPACT),
    ("optim.betas", (0.9, 0.95), MAR),
    ("optim.weight_decay", 0.02, MAR),
    ("optim.gradient_clip", 3.0, MAR),
    ("optim.ema_decay", 0.9999, MAR),
    ("optim.ema_warmup", False, MAR),
    ("optim.decay_steps", 0, MAR),  # constant after the warm-up
    ("trainer.global_batch_size", 2048, AUDIOMNTP),
    ("data.caption_dropout", 0.1, AUDIOMNTP),
    ("model.patch_size", 4, IMPACT),
    ("model.max_patches", 256, IMPACT),
    ("model.mlp_ratio", 4.0, MAR),
    ("model.dropout", 0.1, MAR),
    ("model.attention_dropout", 0.1, MAR),
    ("model.text_padding", -1, IMPACT),  # 78 positions
    ("model.local_kernel", 0, MAR),
    ("model.head", "diffusion", IMPACT),
    ("model.head_width", 1024, SIZES),
    ("model.head_depth", 3, SIZES),
    ("model.prediction", "noise", IMPACT),
    ("model.num_timesteps", 1000, MAR),
    ("model.diffusion_batch_mul", 4, MAR),
    ("decoding.num_diffusion_steps", 100, IMPACT),
    ("decoding.guidance_scale", 5.0, IMPACT),
    ("decoding.guidance_schedule", "cosine", IMPACT),
    ("decoding.temperature", 1.0, IMPACT),
    ("decoding.min_alpha_bar", 0.0, MAR),
    ("decoding.order", "random", IMPACT),
    ("decoding.reveal", "cosine", IMPACT),
    ("decoding.solver", "ancestral", IMPACT),
]
MASK_RATIO = [("kind", "truncated_normal"), ("low", 0.7), ("std", 0.25)]  # AudioMNTP's AudioMAR row, MAR's code
SIZE_OF = {"base": (768, 12, 12), "large": (1024, 16, 16)}  # dim, depth of each half, heads


@pytest.mark.parametrize("experiment", ROWS)
def test_rows_have_the_published_values(experiment):
    config = compose("train", TrainConfig, [f"experiment={experiment}"])
    found = [(key, plain(operator.attrgetter(key)(config)), where) for key, _, where in PUBLISHED]
    assert found == PUBLISHED
    model, ratio = config.model, config.model.mask_ratio
    assert (model.dim, model.depth, model.num_heads) == SIZE_OF["large" if "large" in experiment else "base"]
    if experiment == "base_single_pass":
        assert (ratio.kind, ratio.value, config.decoding.num_iterations) == ("fixed", 1.0, 1)
    else:
        assert [(name, getattr(ratio, name)) for name, _ in MASK_RATIO] == MASK_RATIO
        assert config.decoding.num_iterations == (32 if experiment == "base_t32_ac_wc" else 64)
    if config.stage == "text":  # starts from the row that comes before it
        assert config.init_from.startswith("mar:") or config.init_from.removeprefix("runs/") in ROWS


def plain(value):
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("size", ["base", "large"])
def test_what_is_ours_has_names_of_its_own(size):
    rows, ours = (compose("train", TrainConfig, [f"model={name}"]).model for name in (size, f"{size}_fast"))
    differing = {name: value for name, value in vars(ours).items() if value != getattr(rows, name)}
    assert differing == {"attention_dropout": 0.0, "text_padding": 8}
    assert compose("train", TrainConfig, ["experiment=text"]).optim.ema_warmup


def test_every_experiment_but_the_demonstration_is_in_the_document():
    document = (ROOT / "docs" / "recipes.md").read_text()
    assert {name for name in EXPERIMENTS if f"`{name}`" not in document} == {"demo_pretrain", "demo_text"}


def test_the_commands_of_the_document_parse():
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text(), flags=re.DOTALL)
    commands = [shlex.split(line) for line in "".join(blocks).replace("\\\n", " ").splitlines()]
    assert {command[0] for command in commands} == {"impact", "python"}
    for program, *arguments in commands:
        if arguments[0] == "train":
            compose("train", TrainConfig, arguments[1:])
        elif program == "python":
            assert arguments[:2] == ["-m", "lab.ablation"]
            ablation.build_parser().parse_args(arguments[2:])
        else:
            assert arguments[0] == "generate"
            build_parser().parse_args(arguments[1:])


def test_single_pass_masks_everything_and_mar_gives_its_weights(shards, mar_file, tmp_path):
    config = configure(["experiment=base_single_pass", f"init_from=mar:{mar_file}"], shards, tmp_path)
    config.trainer.max_steps = 0
    assert train(config).exit_code == 0
    model = Impact.from_pretrained(tmp_path / "base_single_pass" / "model")
    moments = torch.zeros(1, 2 * CHANNELS, FRAMES, WIDTH)
    result = model.loss(model.whiten(moments, torch.Generator().manual_seed(0)), None, torch.Generator())
    assert result.mask_ratio == 1.0
    theirs = load_file(mar_file)["encoder_blocks.0.attn.qkv.weight"]
    assert torch.equal(model.encoder.enc1.blocks[0].attn.qkv.weight, theirs)


def test_the_codebook_comes_from_the_training_set_and_stays(shards, stage1, tmp_path):
    """Fitted before step 0 by the seed alone, carried into stage 2 and by a resumed training."""
    codebooks = lambda run_dir: load_file(run_dir / "model" / "model.safetensors")["head.quantizer.codebooks"]  # noqa: E731
    first = stage1("discrete")
    config = configure(["experiment=head_discrete", "name=again", "stage=pretrain", "init_from="], shards, tmp_path)
    config.trainer.max_steps = 0
    assert train(config).exit_code == 0
    assert torch.equal(codebooks(tmp_path / "again"), codebooks(first))
    assert codebooks(first).std() > 0.1

    config = configure(["experiment=head_discrete", f"init_from={first}", "seed=7"], shards, tmp_path)
    assert train(config).exit_code == 0
    config.trainer.max_steps = 4  # resumed
    (tmp_path / "head_discrete/text/model/config.json").unlink()
    assert train(config).exit_code == 0
    assert torch.equal(codebooks(tmp_path / "head_discrete/text"), codebooks(first))


def test_too_few_patches_for_a_codebook_are_refused_before_anything_is_written(shards, tmp_path):
    config = configure(["experiment=head_discrete", "init_from="], shards, tmp_path)
    config.model.codebook_size = 1024
    with pytest.raises(ValueError, match=r"384 patches in the training set, too few for model\.codebook_size = 1024"):
        train(config)
    assert not (tmp_path / "head_discrete" / "text").exists()


def test_an_unknown_text_feature_is_refused(shards, tmp_path):
    config = configure(["experiment=no_pretrain", "data.text_features=[t5,words]"], shards, tmp_path)
    with pytest.raises(ValueError, match=r"have clap, t5, not words"):
        train(config)


def test_another_head_cannot_continue_a_stage(shards, stage1, tmp_path):
    config = configure(["experiment=head_mse", f"init_from={stage1('diffusion')}"], shards, tmp_path)
    with pytest.raises(ValueError, match=r"model\.head diffusion -> mse"):
        train(config)


def test_model_folders_of_before_the_codebooks_still_load(stage1, tmp_path):
    shutil.copytree(stage1("diffusion") / "model", tmp_path / "model")
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    for key in ("num_codebooks", "codebook_size"):
        del content["model"][key]
    (tmp_path / "model" / "config.json").write_text(json.dumps(content))
    assert Impact.from_pretrained(tmp_path / "model").spec.model.head == "diffusion"


def test_distilling_trains_the_head_alone(shards, stage1, tmp_path):
    teacher = Impact.from_pretrained(stage1("text") / "model")
    config = configure(["experiment=distill", f"init_from={stage1('text')}", "model.dropout=0.5"], shards, tmp_path)
    assert train(config).exit_code == 0
    student = Impact.from_pretrained(tmp_path / "distill" / "model")
    before, after = teacher.state_dict(), student.state_dict()
    for name, weight in after.items():
        if not name.startswith("head."):
            assert torch.equal(weight, before[name]), name
    assert not torch.equal(after["head.input_proj.weight"], before["head.input_proj.weight"])


def test_distilling_goes_on_without_the_folder_of_its_teacher(shards, stage1, tmp_path):
    shutil.copytree(stage1("text") / "model", tmp_path / "teacher")
    start = ["experiment=distill", f"init_from={tmp_path / 'teacher'}"]
    assert train(configure([*start, "name=straight"], shards, tmp_path)).exit_code == 0
    resumed = configure([*start, "name=resumed"], shards, tmp_path)
    resumed.trainer.max_steps = 2
    assert train(resumed).exit_code == 0
    shutil.rmtree(tmp_path / "teacher")
    resumed.trainer.max_steps = 3
    resumed.decoding.temperature = 0.5
    with pytest.raises(ValueError, match=r"another training: decoding\.temperature 1\.0 -> 0\.5"):
        train(resumed)
    resumed.decoding.temperature = 1.0
    assert train(resumed).exit_code == 0
    straight, resumed = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("straight", "resumed"))
    assert all(torch.equal(weight, resumed[name]) for name, weight in straight.items())


def test_distilling_wants_a_model_with_text(shards, stage1, tmp_path):
    with pytest.raises(ValueError, match="start from a trained model of the stage text"):
        train(configure(["experiment=distill", f"init_from={stage1('diffusion')}"], shards, tmp_path))


def test_a_distilled_model_is_no_teacher(shards, stage1, tmp_path):
    assert train(configure(["experiment=distill", f"init_from={stage1('text')}"], shards, tmp_path)).exit_code == 0
    again = configure(["experiment=distill", "name=again", f"init_from={tmp_path / 'distill'}"], shards, tmp_path)
    with pytest.raises(ValueError, match=r"has the head consistency: stage distill wants .* the head diffusion"):
        train(again)
