"""Use the page of `impact serve` in a browser, and take the picture of docs/serve.md.

usage: python docs/figures/page.py        # writes docs/assets/serve.webp; needs the extra serve, and Chromium
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.helpers import serving_page  # noqa: E402
from tests.helpers.serving_page import WAIT, settle  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "server").mkdir()
        with serving_page.serving(folder / "server") as url:
            browser = serving_page.open_page(folder / "profile", url, (900, 900))
            try:
                browser.run("type('caption', 'a rooster crows'); type('seed', '1', 'number')")
                settle(browser)
                browser.run("press('generate')")
                browser.wait("!!sound('sound-0')?.src && !!sound('sound-1')?.src", WAIT)
                browser.run("button('sound-0', 'Edit this sound').click()")
                browser.wait("at('end').querySelector('input').value > 3", WAIT)
                browser.run("type('drawn', 'a dog barks'); type('start', '3', 'number'); type('end', '4', 'number')")
                settle(browser, 1500)
                browser.run("press('replace')")
                browser.wait("!!sound('edited')?.src", WAIT)
                browser.run("sound('edited').play().then(() => true)")
                settle(browser, 2000)
                serving_page.picture(browser, folder / "picture.png")
            finally:
                browser.close()
        image = Image.open(io.BytesIO((folder / "picture.png").read_bytes())).convert("RGB")
        image.save(ROOT / "docs" / "assets" / "serve.webp", quality=80)


if __name__ == "__main__":
    main()
