"""Small models with random weights, their inputs, and the comparison of one engine with another."""

import dataclasses

import torch

from impact_pl.config import DecodingConfig, ModelConfig
from impact_pl.inference.generate import generate
from impact_pl.models.impact import Impact
from impact_pl.models.spec import ImpactSpec

TINY = ModelConfig(dim=32, depth=1, num_heads=2, dropout=0.0, max_patches=12, head_width=32, head_depth=1)
FEATURES = {"clap": (1, 5), "words": (3, 6)}
QUICK = DecodingConfig(num_iterations=3, num_diffusion_steps=4, confidence_steps=2)
CODES = {"num_codebooks": 2, "codebook_size": 8}
# Rounding of float32 (6e-8) through three iterations: what the first one draws is seen by the next ones.
CLOSE = 1e-4  # of the largest number


@dataclasses.dataclass
class Text:
    features: dict[str, torch.Tensor]
    mask: torch.Tensor
    longest: int | None = None


def build(text_features=FEATURES, seed=0, perturbed=True, **config) -> Impact:
    torch.manual_seed(seed)
    spec = ImpactSpec(
        model=dataclasses.replace(TINY, **config),
        latent_channels=4,
        latent_width=1,
        latent_mean=[0.0, 1.0, -1.0, 2.0],
        latent_std=2.0,
        text_features=text_features,
        codec={"name": "test", "identity": "0", "sample_rate": 16000, "samples_per_latent": 640},
    )
    model = Impact(spec)
    with torch.no_grad():  # zero-initialised layers would hide what a test looks for
        for parameter in model.parameters() if perturbed else ():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def model_with(head: str, **config) -> Impact:
    """A model of 4-number patches whose head has seen some, where it wants to."""
    model = build(head=head, **CODES | config)
    model.head.fit(torch.randn(64, 4, generator=rng()), rng())
    return model


def captions(batch=2, seed=0) -> Text:
    generator = torch.Generator().manual_seed(seed)
    features = {name: torch.randn(batch, *shape, generator=generator) for name, shape in FEATURES.items()}
    return Text(features, torch.tensor([[True, True, True, False]] * batch))


def rng(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(batch=2, frames=12, seed=0) -> torch.Tensor:
    return torch.randn(batch, 4, frames, 1, generator=rng(seed))


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=CLOSE * theirs.abs().max().item())


def both(model, text, num_frames, batch, **config):
    decoding = DecodingConfig(**{"num_iterations": 3, "num_diffusion_steps": 12, "confidence_steps": 2} | config)
    return [
        generate(model, text, num_frames, batch, dataclasses.replace(decoding, engine=engine), rng())
        for engine in ("fused", "reference")
    ]
