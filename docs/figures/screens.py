"""Open a run in TensorBoard as its users see it, check that its sounds play, and take the pictures of docs/training.md.

usage: python docs/figures/screens.py FOLDER        # writes docs/assets/tensorboard_*.webp; needs Chromium

FOLDER holds one run with samples (trainer.sample_every_steps), such as runs/demo/text of `make demo`.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.helpers.chromium import Chromium  # noqa: E402
from tests.helpers.tensorboard_server import check_sounds, serve, show  # noqa: E402

PAGES = {"timeseries": ("line-chart canvas", 900), "audio": ("audio", 370)}  # page -> what it shows, height in pixels


def main() -> None:
    url = serve(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        browser = Chromium(Path(folder) / "profile", size=(1280, 900))
        try:
            check_sounds(browser, url)
            for plugin, (selector, height) in PAGES.items():
                show(browser, url, plugin, selector)
                browser.wait("performance.now() > 15000")  # charts and pictures are drawn late
                picture = Path(folder) / "picture.png"
                browser.picture(picture)
                image = Image.open(io.BytesIO(picture.read_bytes())).convert("RGB").crop((0, 0, 1280, height))
                image.save(ROOT / "docs" / "assets" / f"tensorboard_{plugin}.webp", quality=80)
        finally:
            browser.close()


if __name__ == "__main__":
    main()
