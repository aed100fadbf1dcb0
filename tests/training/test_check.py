"""Numbers that no training can work with are refused by key, value and range, before anything is written."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from impact_pl.config import DistillConfig, ModelConfig, TrainConfig, TrainerConfig
from impact_pl.training.check import batch_change, check_config, settle_batch
from impact_pl.training.fit import train
from impact_pl.training.strategies import check_devices


def test_the_defaults_pass():
    check_config(TrainConfig())


@pytest.mark.parametrize("name", ["", " ", ".", "../elsewhere", "a/../../b", "/somewhere"])
def test_a_run_stays_inside_runs_dir(name):
    with pytest.raises(ValueError, match="name a folder inside runs_dir=runs"):
        check_config(TrainConfig(name=name))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("model.num_heads", 0),
        ("model.num_heads", 3),
        ("model.patch_size", 0),
        ("model.dropout", 1.0),
        ("model.mask_ratio.value", 0.0),
        ("model.mask_ratio.span_share", 1.1),
        ("model.mask_ratio.span_low", 0.6),
        ("data.batch_size", 0),
        ("data.num_workers", -1),
        ("data.caption_dropout", 1.1),
        ("trainer.devices", 0),
        ("trainer.accumulate_grad_batches", 0),
        ("trainer.max_steps", -1),
        ("trainer.log_every_steps", 0),
        ("trainer.sample_every_steps", -1),
        ("trainer.zero_stage", 0),
        ("trainer.zero_stage", 3),
        ("optim.lr", float("nan")),
        ("optim.lr", float("inf")),
        ("optim.betas", (0.9, 1.0)),
        ("optim.gradient_clip", 0.0),
        ("optim.ema_decay", 1.0),
        ("distill.num_positions", 0),
        ("codec.crop_seconds", 0.0),
    ],
)
def test_out_of_range(config, key, value):
    *path, name = key.split(".")
    part = config
    for step in path:
        part = getattr(part, step)
    setattr(part, name, value)
    with pytest.raises(ValueError, match=key.replace(".", r"\.")) as error:
        train(config)
    assert "choose" in str(error.value)
    assert not Path(config.runs_dir).exists()


def test_a_missing_package_names_its_extra(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    config.trainer.strategy = "deepspeed"
    with pytest.raises(ValueError, match=r"impact-pl\[deepspeed\].*trainer=fsdp2"):
        train(config)
    assert not (Path(config.runs_dir) / config.name).exists()


def test_decoding_is_checked_before_the_first_step(config):
    config.decoding.num_iterations = 0
    config.trainer.sample_every_steps = 0  # the model's folder notes it all the same
    with pytest.raises(ValueError, match="num_iterations = 0"):
        train(config)


def test_the_learning_rate_rises_before_it_falls(config):
    config.trainer.max_steps, config.optim.warmup_steps, config.optim.decay_steps = 10, 4, 6
    check_config(config)
    config.optim.decay_steps = 7
    with pytest.raises(ValueError, match=r"for example optim\.warmup_steps=1 optim\.decay_steps=5"):
        check_config(config)
    config.optim.warmup_steps, config.optim.decay_steps = 1, 5
    check_config(config)
    config.init_from, config.optim.warmup_steps, config.optim.decay_steps = "runs/long", 100, 400
    check_config(config)  # tuning is shorter than the training that it follows
    assert (config.optim.warmup_steps, config.optim.decay_steps) == (2, 8)
    config.stage = "codec"
    with pytest.raises(ValueError, match="a cosine of its own"):
        check_config(config)


@pytest.mark.parametrize(
    ("gpus", "settings", "message"),
    [
        (0, TrainerConfig(accelerator="gpu"), "trainer=cpu"),
        (1, TrainerConfig(accelerator="gpu", devices=2), r"trainer\.devices=2: 1 GPU"),
        (1, TrainerConfig(accelerator="auto", devices=2), r"trainer\.devices=2: 1 GPU"),
        (0, TrainerConfig(accelerator="abacus"), "auto, cpu, gpu"),
    ],
)
def test_processors_that_are_not_there(monkeypatch, gpus, settings, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        check_devices(settings)
    check_devices(TrainerConfig(accelerator="cpu", devices=2))


def test_the_global_batch_decides_how_many_micro_batches_a_step_has(config):
    config.data.batch_size, config.trainer.devices, config.trainer.num_nodes = 16, 4, 2
    settle_batch(config)
    assert config.trainer.accumulate_grad_batches == 1
    config.trainer.global_batch_size = 2048
    settle_batch(config)
    settle_batch(config)  # again changes nothing
    assert config.trainer.accumulate_grad_batches == 16
    config.trainer.accumulate_grad_batches = 3
    with pytest.raises(ValueError, match="set only one of the two"):
        settle_batch(config)
    config.trainer.global_batch_size = 100
    with pytest.raises(ValueError, match=r"multiple of data\.batch_size=16 x 8 processes = 128"):
        settle_batch(config)


def test_another_number_of_nodes_keeps_the_global_batch_or_says_that_it_changed(config):
    config.data.batch_size, config.trainer.devices, config.trainer.num_nodes = 16, 4, 2
    settle_batch(config)
    assert batch_change(config, 128) == batch_change(config, None) == ""
    config.trainer.num_nodes = 1
    assert batch_change(config, 128).startswith("warning: a step takes 64 clips from here on (data.batch_size=16 x 4 p")
    assert "before it took 128: set trainer.global_batch_size=128 to keep it" in batch_change(config, 128)
    config.trainer.global_batch_size = 128
    settle_batch(config)
    assert batch_change(config, 128) == ""


def test_a_head_that_cannot_be_decoded_by_confidence_is_refused_before_the_first_step(config):
    config.model.head, config.decoding.order, config.trainer.sample_every_steps = "mse", "confidence", 5
    with pytest.raises(ValueError, match="choose order = random"):
        check_config(config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"distill": DistillConfig(num_diffusion_steps=0)}, r"distill\.num_diffusion_steps = 0: choose 1"),
        ({"distill": DistillConfig(num_diffusion_steps=999)}, r"distill\.num_diffusion_steps = 999: choose 1 to 979"),
        ({"init_from": ""}, "name the trained model of stage text with init_from"),
        ({"init_from": "mar:mar.safetensors"}, "name the trained model of stage text with init_from"),
        ({"model": ModelConfig()}, r"model\.head=diffusion learns from data; choose model\.head=consistency"),
        ({"stage": "text"}, r"model\.head=consistency learns from a trained model: stage=distill"),
        ({"stage": "distil"}, None),  # that is for train() to say
    ],
)
def test_what_a_distillation_needs(change, said):
    config = TrainConfig(stage="distill", init_from="runs/text", model=ModelConfig(head="consistency"))
    check_config(config)
    changed = dataclasses.replace(config, **change)
    if said is None:
        check_config(changed)
        return
    with pytest.raises(ValueError, match=said):
        check_config(changed)
