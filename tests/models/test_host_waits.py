"""The host never reads from the device inside a micro-batch or a decoding, and nothing is float64 there.

The device is "meta", whose tensors have no data: to read one raises NotImplementedError.
"""

import contextlib

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from impact_pl.config import DecodingConfig
from impact_pl.inference.generate import generate
from impact_pl.text_encoders.base import TextFeatures
from tests.helpers.models import FEATURES, build, rng

DEVICE = torch.device("meta")


class NoFloat64(TorchDispatchMode):
    """Fail where a tensor in float64 is made on the device: Apple's GPUs have none."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            assert not (isinstance(x, Tensor) and x.device == DEVICE and x.dtype == torch.float64), function
        return made


def texts(longest: int | None) -> TextFeatures:
    features = {name: torch.empty(2, *shape, device=DEVICE) for name, shape in FEATURES.items()}
    return TextFeatures(features, torch.ones(2, 4, dtype=torch.bool, device=DEVICE), longest)


@pytest.mark.parametrize("head", ["diffusion", "attention", "mse"])
@pytest.mark.parametrize("padding", [-1, 1])
def test_a_micro_batch_is_enqueued_without_waiting(head, padding):
    model = build(head=head, perturbed=False, text_padding=padding).to(DEVICE).train()
    moments = torch.empty(2, 8, 12, 1, device=DEVICE)
    with NoFloat64():
        latents = model.whiten(moments, rng())
        model.loss(latents, texts(longest=4), rng(), caption_dropout=0.1).loss.backward()
    assert all(parameter.grad is not None for parameter in model.head.parameters())


def test_reading_from_the_device_is_noticed():
    """Lengths of captions that were encoded on the device are known only there."""
    model = build(perturbed=False, text_padding=1).to(DEVICE)
    with pytest.raises(NotImplementedError, match="no data"):
        model.loss(torch.empty(2, 4, 12, 1, device=DEVICE), texts(longest=None), rng())


@torch.no_grad()
@pytest.mark.parametrize(
    ("head", "engine"), [("diffusion", "fused"), ("diffusion", "reference"), ("consistency", "fused"), ("mse", "fused")]
)
def test_a_decoding_is_enqueued_without_waiting(monkeypatch, head, engine):
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # not for meta tensors
    model = build(head=head, perturbed=False).to(DEVICE)
    decoding = DecodingConfig(num_iterations=3, num_diffusion_steps=4, engine=engine)
    with NoFloat64():
        latents = generate(model, texts(longest=None), 12, 2, decoding, [rng(0), rng(1)])
    assert latents.shape == (2, 4, 12, 1)
    assert latents.device == DEVICE
