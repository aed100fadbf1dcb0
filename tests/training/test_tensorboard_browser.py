"""TensorBoard in a real browser: loss and learning rate on the first screen, playing sounds, and spectrograms."""

import pytest

from impact_pl.config import DecodingConfig
from impact_pl.training.fit import train
from tests.helpers.chromium import PROGRAM, Chromium
from tests.helpers.tensorboard_server import check_sounds, serve, show

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")]
VISIBLE = """find('scalar-card').filter((each) => each.getBoundingClientRect().bottom <= innerHeight)
    .map((each) => each.querySelector('tb-truncated-path').textContent.replace(/\\s/g, ''))"""


def test_tensorboard_plays_and_shows(config, latents, tmp_path):
    config.data.path = str(latents)
    config.model.max_patches = 32
    config.trainer.max_steps, config.trainer.sample_every_steps = 2, 2
    config.decoding = DecodingConfig(num_iterations=2, num_diffusion_steps=2)
    assert train(config).exit_code == 0
    url = serve(tmp_path / "runs" / "run")
    browser = Chromium(tmp_path / "profile", size=(1280, 800))
    try:
        check_sounds(browser, url)
        show(browser, url, "timeseries", "scalar-card")
        browser.wait("find('scalar-card').length > 2")
        assert browser.run(VISIBLE)[:2] == ["train/loss", "train/lr"]
        show(browser, url, "images", "img")
        browser.wait("find('img').length === 2 && find('img').every((each) => each.naturalWidth > 100)")
    finally:
        browser.close()
