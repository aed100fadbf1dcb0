"""The memory that `impact info --train` announces is what a training step holds."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from impact_pl.cli import info
from impact_pl.config import LoraConfig, ModelConfig
from impact_pl.models.spec import find_model, read_spec
from impact_pl.training.memory import estimate_memory

SHAPE = ModelConfig(dim=384, depth=6, num_heads=6, head_width=512, head_depth=3, dropout=0.0, patch_size=2)
STEP = """
import copy, sys
import torch
from impact_pl.config import OptimConfig
from impact_pl.models.impact import Impact
from impact_pl.files import parse_json
from impact_pl.models.spec import ImpactSpec
from impact_pl.training.optim import build_optimizer
torch.set_num_threads(1)
def peak():  # of this program; ru_maxrss begins at the peak of the process that started it
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
small = Impact(parse_json(sys.argv[1], ImpactSpec, "spec"))
small.loss(torch.zeros(1, 64, 16, 1), None, torch.Generator()).loss.backward()
before = peak()
model = Impact(parse_json(sys.argv[1], ImpactSpec, "spec")).train()
average = copy.deepcopy(model)
optimizer = build_optimizer(model, OptimConfig())
for _ in range(2):
    model.loss(torch.randn(8, 64, 128, 1), None, torch.Generator().manual_seed(0)).loss.backward()
    optimizer.step()
print(peak() - before)
"""


def spec():
    return replace(read_spec(find_model("builtin") / "config.json"), model=SHAPE)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak in /proc")
def test_a_measured_run_needs_what_was_estimated():
    estimate = estimate_memory(spec(), batch_size=8)
    done = subprocess.run(
        [sys.executable, "-c", STEP, json.dumps(asdict(spec()))], capture_output=True, text=True, check=True
    )
    measured = int(done.stdout)
    # The first model in the process covers its own size, and the allocator and kernels add theirs.
    assert 0.6 * estimate.total < measured < 1.5 * estimate.total, (measured / 1e6, estimate)


def test_adapters_and_checkpointing_save_what_they_promise():
    full = estimate_memory(spec(), 8)
    lora = estimate_memory(spec(), 8, LoraConfig(rank=8))
    assert full.gradients == full.parameters == full.average
    assert full.optimizer == 2 * full.gradients
    assert lora.gradients < full.gradients / 10
    assert lora.parameters < 1.1 * full.parameters
    light = estimate_memory(spec(), 8, activation_checkpointing=True)
    assert light.activations < 0.7 * full.activations
    assert estimate_memory(spec(), 16).activations == 2 * full.activations


def test_info_prints_it(capsys):
    info.main(["builtin", "--train"])
    said = capsys.readouterr().out
    assert "training:" in said.lower()
    for words in ("parameters", "gradients", "AdamW", "average", "activations", "adapters of rank 16"):
        assert words in said, said
