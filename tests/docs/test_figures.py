"""Figures of the README and the guides are those of the pages that committed commands make, rounded."""

import re

import pytest

from tests.helpers.documents import read

CARD = "src/impact_pl/assets/model/README.md"  # python -m lab.cards.model_table
ABLATION = "docs/ablation_builtin.md"  # python -m lab.ablation --size builtin
PERFORMANCE = "docs/performance.md"  # make bench
CLASSES = r"### Ten classes.*?\n\| {} \| \d+ \| ([\d.]+)"
CAPTIONS = r"### Held-out captions.*?\n\| {} \| ([\d.]+)"
LATENCY = r"\n\| `{}` \|(?:[^|]*\|){{5}} ([\d.]+) ±"
DECODING = r"\| {} \| 1 \| {} \| ([\d.]+) \|"
EXACT, EXACT_BF16 = DECODING.format("fused, 32-true", "64 x 100"), DECODING.format("fused, bf16", "64 x 100")
FAST = r"full/num_iterations=16,num_diffusion_steps=25,final_diffusion_steps=5,precision=auto"
PRESET = DECODING.format("preset fast, bf16", "16 x 25")
FIGURES = [  # (page, its figure, the page that a command makes, the figure there)
    ("README.md", r"class accuracy ([\d.]+)", CARD, CLASSES.format("generated")),
    ("README.md", r"\(real ([\d.]+)", CARD, CLASSES.format("real, held out")),
    ("README.md", r"chance ([\d.]+)\)", CARD, CLASSES.format("white noise")),
    ("README.md", r"FD-YAMNet ([\d.]+)", CARD, CAPTIONS.format("generated")),
    ("README.md", r"real against real ([\d.]+)", CARD, CAPTIONS.format(r"other real sounds \(real-vs-real baseline\)")),
    ("README.md", r"`builtin` \|.*8 clips of 5.12 s: ([\d.]+) s", ABLATION, LATENCY.format("full")),
    ("README.md", r"`builtin` \|.*`--preset fast` ([\d.]+) s", ABLATION, LATENCY.format(FAST)),
    ("README.md", r"`base` \|.*one clip of 10 s: ([\d.]+) s", PERFORMANCE, EXACT),
    ("README.md", r"`base` \|.*bf16 ([\d.]+) s", PERFORMANCE, EXACT_BF16),
    ("README.md", r"`base` \|.*`--preset fast` ([\d.]+) s", PERFORMANCE, PRESET),
]


@pytest.mark.parametrize(("page", "pattern", "source", "original"), FIGURES)
def test_figures_are_those_that_commands_print(page, pattern, source, original):
    (written,) = re.findall(pattern, read(page))
    digits = len(written.partition(".")[2])
    made = re.findall(original, read(source), flags=re.DOTALL)
    assert float(written) in {round(float(figure), digits) for figure in made}
