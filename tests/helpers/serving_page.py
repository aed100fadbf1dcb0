"""The page of `impact serve` as its users see it: the command itself, and what they do in a browser."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.chromium import Chromium

WAIT = 60.0  # seconds
SCRIPTS = """
window.at = (id) => document.getElementById(id);
window.type = (id, text, kind = 'input') => {
    const field = at(id).querySelector(`textarea, input[type=${kind === 'input' ? 'text' : 'number'}]`);
    field.value = text;
    field.dispatchEvent(new Event('input', {bubbles: true}));
    field.dispatchEvent(new Event('change', {bubbles: true}));
    field.blur();
};
window.shown = (selector, text) => [...document.querySelectorAll(selector)].filter(
    (each) => each.textContent.trim() === text && each.offsetParent);
window.choose = (label) => shown('label', label).forEach((each) => each.querySelector('input').click());
window.tab = (name) => shown('button[role=tab]', name)[0].click();
window.press = (id) => (at(id).tagName === 'BUTTON' ? at(id) : at(id).querySelector('button')).click();
window.button = (id, text) => [...at(id).querySelectorAll('button')].find((each) => each.textContent.trim() === text);
window.link = (id) => at(id)?.querySelector('a.download-link')?.href;
window.sound = (id) => at(id)?.querySelector('audio');
window.toast = () => document.querySelector('.toast-wrap')?.innerText;
"""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run the command on a free port. It leaves no file in the folder when it is stopped."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "impact_pl", "serve", "--port", str(port)],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(folder)},
    )  # fmt: skip
    line = process.stdout.readline()
    assert line == f"http://127.0.0.1:{port}/  model builtin, on cpu; Ctrl-C stops it\n"
    yield line.split()[0]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert not list(folder.glob("impact-serve-*"))


def open_page(profile: Path, url: str, size: tuple[int, int]) -> Chromium:
    browser = Chromium(profile, size=size)
    browser.call("Page.navigate", url=url)
    browser.wait("document.readyState === 'complete' && !!document.querySelector('#history')", WAIT)
    browser.run(SCRIPTS)
    browser.wait("['caption', 'seconds', 'start', 'end', 'drawn', 'replace', 'source'].every(at)")
    return browser


def settle(browser: Chromium, milliseconds: int = 500) -> None:
    """Wait until the server has heard of what was typed."""
    browser.run(f"new Promise((done) => setTimeout(done, {milliseconds}))")


def picture(browser: Chromium, path: Path) -> None:
    """Save a screenshot of the whole page."""
    width, before = browser.run("[innerWidth, innerHeight]")
    height = min(3000, browser.run("document.documentElement.scrollHeight"))
    metrics = {"width": width, "deviceScaleFactor": 1, "mobile": False}
    browser.call("Emulation.setDeviceMetricsOverride", height=height, **metrics)
    settle(browser, 800)
    browser.picture(path)
    browser.call("Emulation.setDeviceMetricsOverride", height=before, **metrics)
