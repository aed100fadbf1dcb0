"""Stage 2 takes over stage 1, and refuses what does not fit."""

import copy
from pathlib import Path

import pytest
import torch

from impact_pl.cli import export
from impact_pl.data.shards import ShardIndex
from impact_pl.models.impact import Impact
from impact_pl.models.spec import find_model
from impact_pl.training.check import build_spec
from impact_pl.training.checkpoint import averaged_weights, load_averaged, open_checkpoint, read_checkpoint
from impact_pl.training.fit import new_module, train
from impact_pl.training.modules import shift_in_time
from tests.helpers.latents import CODEC, SHAPE, write_latents


@pytest.fixture
def stage1(config) -> Path:
    """The run directory of three steps of stage 1."""
    first = copy.deepcopy(config)
    first.stage, first.name, first.trainer.max_steps = "pretrain", "first", 3
    assert train(first).exit_code == 0
    return Path(first.runs_dir) / "first"


def test_stage_1_has_no_text_parts(stage1):
    model = Impact.from_pretrained(stage1 / "model")
    assert model.spec.text_features == {}
    assert model.spec.text_encoder is None
    assert not any("text" in name or "null" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("source", [".", "model", "checkpoints/last.ckpt"])
def test_stage_2_starts_from_the_average_of_stage_1(config, stage1, source):
    config.init_from = str(stage1 / source)
    old = Impact.from_pretrained(stage1 / "model").state_dict()
    module = new_module(config, build_spec(config, ShardIndex.load(Path(config.data.path) / "train"), True))
    new = module.model.state_dict()
    assert all(torch.equal(new[name], old[name]) for name in old)
    assert {name for name in new if name not in old} == {
        *("null_cond", "text_proj.minilm.weight", "text_proj.minilm.bias"),
        *("encoder.enc1.text_pos", "encoder.enc2.text_pos"),
    }
    assert all(torch.equal(new[name], value) for name, value in module.ema.model.state_dict().items())
    assert train(config).exit_code == 0


def test_stage_2_keeps_the_whitening_that_stage_1_learned_with(config, stage1, tmp_path):
    other = write_latents(tmp_path / "other")
    index = ShardIndex.load(other / "train")
    index.latents["std"] = 3.0
    index.save(other / "train")
    config.data.path, config.init_from = str(other), str(stage1)
    assert train(config).exit_code == 0
    assert Impact.from_pretrained(Path(config.runs_dir) / "run" / "model").spec.latent_std == 1.0


def test_stage_2_of_another_codec_or_shape_is_refused_in_one_message(config, stage1, tmp_path):
    codec = CODEC | {"identity": "aaaaaaaaaaaaaaaa"}
    config.data.path = str(write_latents(tmp_path / "other", codec=codec))
    config.model.dim, config.model.head_depth, config.init_from = 32, 2, str(stage1)
    with pytest.raises(ValueError, match="does not fit") as error:
        train(config)
    for part in (
        "model.dim 16 -> 32",
        "model.head_depth 1 -> 2",
        "codec builtin/0123456789abcdef -> builtin/aaaaaaaaaaaaaaaa",
        "shards of the same codec",
    ):
        assert part in str(error.value)
    assert not (Path(config.runs_dir) / "run").exists()


def test_missing_init_from_is_named(config, tmp_path):
    config.init_from = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"nowhere: there is no such run\. Train it first .*experiment=nowhere"):
        train(config)


def test_text_needs_captions(config, tmp_path):
    config.data.path = str(write_latents(tmp_path / "mute", text=False))
    with pytest.raises(ValueError, match="needs captions"):
        train(config)
    config.stage = "pretrain"
    assert train(config).exit_code == 0


def test_resume_with_another_text_encoder_is_refused(config, tmp_path):
    assert train(config).exit_code == 0
    other = write_latents(tmp_path / "other")
    for split in ("train", "valid"):
        index = ShardIndex.load(other / split)
        index.text_encoder["identity"] = "bbbbbbbbbbbbbbbb"
        index.save(other / split)
    config.data.path, config.trainer.max_steps = str(other), 9
    with pytest.raises(ValueError, match="text encoder minilm/fedcba9876543210 -> minilm/bbbbbbbbbbbbbbbb"):
        train(config)


def test_text_padding_is_what_the_text_was_learned_with(config, stage1):
    """Stage 1 has none, so that stage 2 may choose; a model with text stays what it is, resumed or started from."""
    config.init_from, config.model.text_padding, config.trainer.max_steps = str(stage1), 2, 3
    assert train(config).exit_code == 0
    assert Impact.from_pretrained(Path(config.runs_dir) / "run" / "model").spec.model.text_padding == 2
    config.trainer.max_steps, config.model.text_padding = 6, -1
    with pytest.raises(ValueError, match=r"holds another training: model\.text_padding 2 -> 6\."):
        train(config)
    config.name, config.init_from = "next", str(Path(config.runs_dir) / "run")
    with pytest.raises(ValueError, match=r"does not fit this training: model\.text_padding 2 -> 6\.") as error:
        train(config)
    assert "model.KEY=" in str(error.value)
    config.model.text_padding = 2
    assert train(config).exit_code == 0


def test_pooled_text_can_be_added_but_not_taken_away(config, stage1):
    config.init_from, config.trainer.max_steps = str(stage1), 3
    assert train(config).exit_code == 0
    config.name, config.init_from = "next", str(Path(config.runs_dir) / "run")
    config.model.pooled_text, config.data.token_dropout = True, 0.5
    assert train(config).exit_code == 0
    weights = Impact.from_pretrained(Path(config.runs_dir) / "next" / "model").text_pool.parameters()
    assert all(weight.any() for weight in weights)
    config.trainer.max_steps, config.model.pooled_text = 6, False
    with pytest.raises(ValueError, match=r"holds another training: model\.pooled_text True -> False\."):
        train(config)
    config.name, config.init_from = "last", str(Path(config.runs_dir) / "next")
    with pytest.raises(ValueError, match=r"does not fit this training: model\.pooled_text True -> False\."):
        train(config)


@pytest.mark.parametrize("same", [6, 99])
def test_all_text_positions_have_several_names(config, same):
    assert train(config).exit_code == 0
    config.model.text_padding, config.trainer.max_steps = same, 8
    assert train(config).exit_code == 0


def test_image_weights_start_a_model(config, tmp_path):
    config.init_from = f"mar:{tmp_path / 'mar.safetensors'}"
    with pytest.raises(ValueError, match="No MAR checkpoint"):
        train(config)


def test_no_steps_write_the_initial_model(config):
    config.trainer.max_steps = 0
    assert train(config).exit_code == 0
    model = Impact.from_pretrained(Path(config.runs_dir) / "run" / "model")
    torch.manual_seed(config.seed)
    fresh = Impact(model.spec).state_dict()
    assert all(torch.equal(fresh[name], value) for name, value in model.state_dict().items())


def test_no_steps_never_replace_a_model(config, capsys):
    """Repeatable; and neither a model without checkpoints nor a training is overwritten by random weights."""
    config.trainer.max_steps, folder = 2, Path(config.runs_dir) / "run"
    assert train(config).exit_code == 0
    weights = (folder / "model" / "model.safetensors").read_bytes()
    config.trainer.max_steps = 0
    assert train(config).exit_code == 0
    assert "already trained to 2 steps" in capsys.readouterr().out
    (folder / "checkpoints" / "last.ckpt").unlink()
    assert train(config).exit_code == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (folder / "model" / "model.safetensors").read_bytes() == weights
    config.model.dim = 32
    with pytest.raises(ValueError, match=r"another model: model\.dim 16 -> 32"):
        train(config)


def test_shifted_clips_are_the_same_frames_from_another_one_on():
    latents = torch.arange(64 * 3 * 5, dtype=torch.float32).view(64, 3, 5, 1)
    shifted = shift_in_time(latents, torch.Generator().manual_seed(0))
    firsts = (shifted[:, 0, 0, 0] - latents[:, 0, 0, 0]).int().tolist()
    assert set(firsts) == set(range(5))
    for clip, moved, first in zip(latents, shifted, firsts, strict=True):
        assert torch.equal(moved, clip.roll(-first, dims=1))


def test_a_shift_changes_what_is_learned(config):
    learned = []
    for name, shift in (("plain", False), ("shifted", True)):
        config.name, config.data.random_shift = name, shift
        assert train(config).exit_code == 0
        learned.append(load_averaged(Path(config.runs_dir) / name).encoder.patch_proj.weight)
    assert not torch.equal(*learned)


def test_export_writes_the_averaged_model(config, stage1, tmp_path, run):
    for source in (stage1, stage1 / "checkpoints" / "last.ckpt"):
        out = tmp_path / f"out{source.is_dir()}"
        assert run(export.main, source, out) == 0
        exported = Impact.from_pretrained(out).state_dict()
        average = averaged_weights(open_checkpoint(stage1 / "checkpoints" / "last.ckpt"))
        assert exported.keys() == average.keys()
        assert all(torch.equal(exported[name], average[name]) for name in average)
    assert run(export.main, tmp_path / "outTrue", tmp_path / "half", "--half") == 0  # of a model folder, too
    halves = Impact.from_pretrained(tmp_path / "half").state_dict()
    assert all(torch.equal(halves[name], average[name].half().float()) for name in average)
    assert run(export.main, tmp_path / "nothing", tmp_path / "x") == 2
    assert load_averaged(stage1).spec.latent_channels == SHAPE[0]


def test_export_says_how_the_model_is_decoded(stage1, tmp_path, run, capsys):
    out = tmp_path / "out"
    assert run(export.main, stage1, out, "--decoding", "temperature=0.8", "num_iterations=7", "order=confidence") == 0
    own = load_averaged(out).spec.own_decoding
    assert (own.temperature, own.num_iterations, own.order) == (0.8, 7, "confidence")
    assert own.num_diffusion_steps == load_averaged(stage1).spec.own_decoding.num_diffusion_steps
    for pair, message in {
        "steps=7": "there is no 'steps'",
        "temperature=hot": "write temperature= and a number",
        "engine=plain": "there is no 'engine'",
        "num_iterations=0": "num_iterations = 0",
    }.items():
        assert run(export.main, stage1, tmp_path / "no", "--decoding", pair) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_damaged_checkpoint_is_named(config, stage1):
    last = stage1 / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last\.ckpt is not a readable checkpoint"):
        read_checkpoint(last)


def test_the_shipped_model_brings_its_shape_and_its_decoding(config, latents, capsys):
    """Whatever model=... says; and the same command continues."""
    builtin = load_averaged(find_model("builtin")).spec
    config.data.path, config.init_from = str(latents), "builtin"
    for steps in (1, 2):
        config.trainer.max_steps = steps
        trained = load_averaged(train(config).model).spec
        assert (trained.model.dim, trained.model.depth) == (builtin.model.dim, builtin.model.depth)
        assert trained.decoding["temperature"] == builtin.decoding["temperature"]
    assert f"the model has the shape of init_from=builtin: dim={builtin.model.dim}" in capsys.readouterr().out


def test_a_step_that_is_not_finite_can_be_left_out(config, monkeypatch):
    """One broken batch: without it the training goes on, and the means and weights stay finite."""
    from impact_pl.training.modules import ImpactTraining

    loss = ImpactTraining.loss

    def broken(self, *args):
        result = loss(self, *args)
        factor = float("nan") if self.global_step == 2 and self.training else 1.0
        return result._replace(loss=result.loss * factor)

    monkeypatch.setattr(ImpactTraining, "loss", broken)
    with pytest.raises(ValueError, match=r"stopped at step 2.*trainer\.max_skipped_steps=N"):
        train(config)
    config.name, config.trainer.max_skipped_steps = "skips", 1
    result = train(config)
    assert result.step == 6
    assert all(value.isfinite().all() for value in load_averaged(result.model).state_dict().values())
