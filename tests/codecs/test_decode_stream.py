"""Decoding in overlapping chunks equals decoding at once."""

import pytest
import torch

from impact_pl import load_codec
from impact_pl.randomness import NOISE_BLOCK, PositionalNoise

NOISE = PositionalNoise([3, 4], ["rain", None], "test")


@pytest.fixture(scope="module")
def codec():
    return load_codec("builtin", "cpu")


@pytest.fixture(scope="module")
def latents(codec):
    generator = torch.Generator().manual_seed(0)
    return codec.latent_std * torch.randn(2, codec.latent_channels, 110, 1, generator=generator)


@pytest.mark.parametrize("size", [11, 30, 47, 110])
def test_chunks_are_the_whole(codec, latents, size):
    whole = codec.decode(latents, NOISE)
    joined = torch.cat(list(codec.decode_stream(latents.split(size, dim=2), NOISE)), dim=1)
    torch.testing.assert_close(joined, whole, rtol=0, atol=1e-5 * whole.abs().max().item())


def test_less_context_would_not_do(codec, latents, monkeypatch):
    whole = codec.decode(latents, NOISE)
    monkeypatch.setattr(codec, "decode_context", 1)
    joined = torch.cat(list(codec.decode_stream(latents.split(30, dim=2), NOISE)), dim=1)
    assert (joined - whole).abs().max() > 1e-3 * whole.abs().max()


def test_only_the_context_is_held(codec, latents):
    lengths = []

    def decode(held, noise):
        lengths.append(held.shape[2])
        return torch.zeros(len(held), held.shape[2] * codec.samples_per_latent)

    try:
        codec.decode = decode
        chunks = (latents[:, :, :10] for _ in range(200))
        assert sum(x.shape[1] for x in codec.decode_stream(chunks, NOISE)) == 2000 * codec.samples_per_latent
    finally:
        del codec.decode
    assert max(lengths) <= 2 * codec.decode_context + 10


def test_nothing_in_nothing_out(codec):
    assert list(codec.decode_stream([], NOISE)) == []


def test_noise_is_a_function_of_its_position():
    rows = NOISE.normal("noise", 0, 2 * NOISE_BLOCK + 10, 2)
    assert torch.equal(NOISE.normal("noise", NOISE_BLOCK - 3, 7, 2), rows[:, NOISE_BLOCK - 3 : NOISE_BLOCK + 4])
    assert not torch.equal(rows[0], rows[1])  # per clip
    assert not torch.equal(rows[:, :10], rows[:, NOISE_BLOCK : NOISE_BLOCK + 10])
    assert abs(rows.std().item() - 1) < 0.02
