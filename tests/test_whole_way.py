"""docs/reproduce.md from the first command to the last: data sets in their published formats, small random checkpoints.

Every command is the document's own; appended to it is only what makes it small, and keeps it on the processor.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from impact_pl.cli.main import main
from tests.helpers import published
from tests.helpers.recipes import REDUCED
from tests.helpers.reproduce import section
from tests.helpers.tiny_networks import write_weights

pytest.importorskip("diffusers", reason="extra 'audioldm' is not installed")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SMALL = {
    "precompute": ["clip_seconds=1.28", "device=cpu", "samples_per_shard=8"],
    "train": [*REDUCED, "trainer.devices=1"],
    "generate": ["--iterations", "2", "--diffusion-steps", "2", "--duration", "1", "--device", "cpu"],
}


def write_checkpoints(folder: Path) -> None:
    published.save_audioldm(folder / "audioldm")
    published.save_t5(folder / "flan-t5-large")
    published.save_roberta(folder / "roberta-base")
    clap = {"epoch": 1, "state_dict": published.laion_state(published.save_clap(folder / "clap"))}
    torch.save(clap, folder / "630k-audioset-fusion-best.pt")
    golden = load_file(ROOT / "tests" / "golden" / "mar_parity.safetensors")
    state = {name.removeprefix("weights."): value for name, value in golden.items() if name.startswith("weights.")}
    for size in ("base", "large"):
        torch.save({"model": state, "model_ema": state}, folder / f"mar_{size}.pth")


def test_the_whole_way(disk, run):
    write_checkpoints(Path("checkpoints"))
    write_weights(Path("weights"))
    for title in (
        "Manifests",
        "Latents",
        "Training",
        "Sounds for a test list",
        "Figures",
        "Listening test",
        "The page",
    ):
        for program, *arguments in section(title):
            assert program == "impact"
            if arguments[:2] == ["listening", "ratings"]:
                key = json.loads(Path("runs/listening/key.json").read_text())
                Path("raters").mkdir()
                for rater in ("1", "2"):
                    rows = [f"{key['test']},{rater},{item},4,3\n" for item in key["items"]]
                    Path(f"raters/{rater}.csv").write_text("test,rater,item,REL,OVL\n" + "".join(rows))
            assert run(main, *arguments, *SMALL.get(arguments[0], [])) == 0, arguments
    assert "Published systems" in Path("runs/large_t64_audioset/report.html").read_text(encoding="utf-8")
