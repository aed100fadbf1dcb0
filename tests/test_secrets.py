"""Passwords, tokens and keys of a path are neither stored nor shown."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from impact_pl.config import DataConfig, TrainConfig
from impact_pl.data.remote import read_url
from impact_pl.errors import UserError
from impact_pl.secrets import mask_secrets, without_secrets
from impact_pl.training.modules import UnconditionalPretraining
from tests.helpers.models import build

SECRET = "hunter2%2Fabc.def-123"
CARRIERS = [
    "https://me:{}@host.org/latents",
    "https://{}@host.org/latents",
    "https://host.org/latents?x=1&token={}&y=2",
    "https://host.org/latents?sig={}",
    "https://host.org/latents?key={}",
    "s3://bucket/a?X-Amz-Credential=AKIA/1&X-Amz-Signature={}",
    "pipe:AWS_SECRET_ACCESS_KEY={} aws s3 cp s3://bucket/%s -",
    "pipe:AWS_ACCESS_KEY_ID={} aws s3 cp s3://bucket/%s -",
    "pipe:HF_TOKEN='{}' hf download %s",
    "pipe:curl -H 'Authorization: Bearer {}' https://host.org/%s",
    'pipe:curl -H "X-Api-Key: {}" https://host.org/%s',
    "pipe:curl -s -u me:{} https://host.org/%s",
    "pipe:fetch --api-key {} %s",
    "pipe:fetch --access-token={} %s",
]
HARMLESS = [
    "https://host.org/latents",
    "gs://bucket/me@home/latents",
    "pipe:aws s3 cp s3://bucket/latents/%s -",
    "use the model=... and model.KEY=... it was trained with",
    "t5: tokenizer files missing; num_tokens=5, data.path=/data/a@b",
    "line 1: key 'caption' is missing",
]


@pytest.mark.parametrize("carrier", CARRIERS)
def test_secrets_are_masked_and_nothing_else(carrier):
    masked = mask_secrets(carrier.format(SECRET))
    assert SECRET not in masked
    assert "***" in masked
    assert masked.split(":")[0] == carrier.split(":")[0]
    assert mask_secrets(masked) == masked


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text):
    assert mask_secrets(text) == text


def test_a_configuration_is_masked_where_it_is_stored(tmp_path):
    config = TrainConfig(
        data=DataConfig(path=CARRIERS[0].format(SECRET)), logger={"wandb": {"dir": CARRIERS[2].format(SECRET)}}
    )
    stored = without_secrets(dataclasses.asdict(config))
    assert SECRET not in yaml.safe_dump(stored)
    assert stored["optim"] == dataclasses.asdict(config)["optim"]
    module = UnconditionalPretraining(build().spec, config)
    torch.save(dict(module.hparams), tmp_path / "notes.pt")
    assert SECRET.encode() not in (tmp_path / "notes.pt").read_bytes()
    assert module.config.data.path == CARRIERS[0].format(SECRET)  # what is read


def test_errors_are_masked():
    with pytest.raises(UserError, match=r"token=\*\*\*") as error:
        read_url(f"file:{Path('/nowhere')}/train?token={SECRET}")
    assert SECRET not in str(error.value)
