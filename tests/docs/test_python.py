"""Python blocks of the guides, run as a reader would."""

import shutil

from tests.helpers.documents import blocks


def block_with(page: str, text: str) -> str:
    return next(block for block in blocks(page, "python") if text in block)


def test_a_trainer_of_ones_own(latents, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(latents, "data/mine/latents")
    block = block_with("docs/training.md", "Trainer(max_steps=100")
    block = block.replace("max_steps=100", "max_steps=2, logger=False, enable_checkpointing=False, accelerator='cpu'")
    names: dict = {}
    exec(block, names)
    assert names["module"].global_step == 2


def test_sounds_and_latents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for page in ("README.md", "docs/index.md"):
        exec(
            block_with(page, "ImpactPipeline").replace("seed=1", "seed=1, num_iterations=2, num_diffusion_steps=3"), {}
        )
        assert (tmp_path / "rooster.wav").is_file()
    names: dict = {}
    exec(block_with("docs/generation.md", "pipeline.encode"), names)
    assert names["waveforms"].shape == (1, 16_000)


def test_shaping_a_sound(tmp_path, monkeypatch):
    """The guide's calls in order, with fewer steps."""
    monkeypatch.chdir(tmp_path)
    block = block_with("docs/editing.md", "pipeline.extend")
    block = block.replace("from_pretrained()", "from_pretrained(); quick(pipeline)")

    def quick(pipeline):
        pipeline.model.spec.decoding.update(num_iterations=2, num_diffusion_steps=3)

    names: dict = {"quick": quick}
    exec(block, names)
    assert names["loop"].duration == 3
    assert names["longer"].duration == 6
    assert names["chunk"].sample_rate == 16_000
