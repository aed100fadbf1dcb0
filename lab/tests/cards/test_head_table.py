"""The table of docs/recipes.md: counted as the heads really compute, and printed by the command."""

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from impact_pl.config import DecodingConfig, ModelConfig
from impact_pl.inference.generate import generate
from impact_pl.models.heads import HEADS
from impact_pl.models.impact import Impact
from impact_pl.models.spec import ImpactSpec
from impact_pl.text_encoders.base import TextFeatures
from lab.cards import head_table

DOCUMENT = Path(__file__).parents[3] / "docs" / "recipes.md"


def test_the_table_of_the_document_is_the_commands(capsys):
    head_table.main(["--models", "nano", "--heads", "diffusion", "attention", "mse"])  # discrete takes seconds
    printed = capsys.readouterr().out
    assert printed.count("| nano |") == 3
    assert printed in DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", HEADS)
def test_operations_are_those_of_a_real_generation(name):
    """The head's share of decoding a clip, counted while it runs."""
    config = ModelConfig(dim=16, depth=1, num_heads=2, head=name, head_width=16, head_depth=2, max_patches=12)
    config.num_codebooks, config.codebook_size = 3, 8
    spec = ImpactSpec(config, 4, 1, [0.0] * 4, 1.0, text_features={"words": (2, 5)})
    torch.manual_seed(0)
    model = Impact(spec)
    counters, sample = [], model.head.sample

    def counting(*args, **kwargs):
        counters.append(FlopCounterMode(display=False))
        with counters[-1]:
            return sample(*args, **kwargs)

    model.head.sample = counting
    decoding = DecodingConfig(num_iterations=5, num_diffusion_steps=7, guidance_schedule="constant", engine="reference")
    features = {"words": torch.randn(1, 2, 5)}
    text = TextFeatures(features, torch.ones(1, 2, dtype=torch.bool))
    with sdpa_kernel(SDPBackend.MATH):  # the fused one is not counted on a CPU
        generate(model, text, 12, 1, decoding, torch.Generator().manual_seed(0))
    assert head_table.cost(spec, decoding).flops == sum(counter.get_total_flops() for counter in counters) > 0
