"""TensorBoard as its users see it: its server, and its pages in a browser."""

import json
from pathlib import Path

from tensorboard import program

from tests.helpers.chromium import Chromium

FIND = """window.find = (selector, root = document) => {
    const shadows = [...root.querySelectorAll('*')].map((each) => each.shadowRoot).filter(Boolean);
    return [...root.querySelectorAll(selector)].concat(...shadows.map((shadow) => find(selector, shadow)));
}"""


def serve(run_dir: Path) -> str:
    """Start TensorBoard for a run on a free port, and return its URL."""
    board = program.TensorBoard()
    board.configure(argv=["", "--logdir", str(run_dir), "--host", "127.0.0.1", "--port", "0", "--load_fast", "false"])
    return board.launch()


def show(browser: Chromium, url: str, plugin: str, selector: str) -> None:
    """Open a plugin's page, and wait until it shows an element, which may be inside a shadow root."""
    browser.call("Page.navigate", url="about:blank")  # a new fragment alone would not load the page again
    browser.call("Page.navigate", url=f"{url}?darkMode=false#{plugin}")
    browser.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
    browser.run(FIND)
    browser.wait(f"find({json.dumps(selector)}).length > 0")


def check_sounds(browser: Chromium, url: str) -> None:
    """Press play on the page of sounds: every player has a sound, and the first one plays."""
    show(browser, url, "audio", "audio")
    browser.wait("find('audio').every((each) => each.readyState === 4 && each.duration > 0.5)")
    browser.run("find('audio')[0].play().then(() => true)")
    browser.wait("find('audio')[0].currentTime > 0.3")
