"""The page of `impact serve` in a real browser: type, press, hear, mark, replace, on a desktop and on a phone."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.helpers.chromium import PROGRAM, Chromium

pytest.importorskip("gradio", reason="the extra serve is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")]
PICTURES = os.environ.get("IMPACT_PICTURES")  # a folder for screenshots, to look at
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
window.choose = (label) => [...document.querySelectorAll('label')].find(
    (each) => each.textContent.trim() === label && each.offsetParent).querySelector('input').click();
window.press = (id) => (at(id).tagName === 'BUTTON' ? at(id) : at(id).querySelector('button')).click();
window.button = (id, text) => [...at(id).querySelectorAll('button')].find((each) => each.textContent.trim() === text);
window.link = (id) => at(id)?.querySelector('a.download-link')?.href;
window.sound = (id) => at(id)?.querySelector('audio');
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The command itself, on a free port; it removes its files when it is stopped."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("temporary")
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


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def browser(request, server, tmp_path):
    browser = Chromium(tmp_path / "profile", size=request.param)
    browser.call("Page.navigate", url=server)
    browser.wait("document.readyState === 'complete' && !!document.querySelector('#history')", WAIT)
    browser.run(SCRIPTS)
    browser.wait("['caption', 'seconds', 'start', 'end', 'drawn', 'replace', 'source'].every(at)")
    yield browser
    browser.close()


def picture(browser: Chromium, name: str) -> None:
    if PICTURES:
        width = browser.run("innerWidth")
        height = min(3000, browser.run("document.documentElement.scrollHeight"))
        metrics = {"width": width, "deviceScaleFactor": 1, "mobile": False}
        before = browser.run("innerHeight")
        browser.call("Emulation.setDeviceMetricsOverride", height=height, **metrics)
        browser.run("new Promise((done) => setTimeout(done, 800))")
        browser.picture(Path(PICTURES) / f"{name}-{width}.png")
        browser.call("Emulation.setDeviceMetricsOverride", height=before, **metrics)


def hear(browser: Chromium, name: str) -> float:
    """Play a sound, wait until it is heard, pause it, and return its duration."""
    browser.wait(f"sound('{name}')?.readyState > 0")
    browser.run(f"sound('{name}').play().then(() => true)")
    browser.wait(f"sound('{name}').currentTime > 0.2")
    browser.run(f"sound('{name}').pause()")
    return browser.run(f"sound('{name}').duration")


def fits(browser: Chromium) -> bool:
    return browser.run("document.documentElement.scrollWidth <= innerWidth")


def test_make_hear_mark_and_replace(browser, tmp_path):
    assert "5.12 s at 16 kHz" in browser.run("document.body.textContent")
    assert fits(browser)
    picture(browser, "start")
    browser.run("type('caption', '<b>a dog</b> barks'); type('seconds', '2', 'number'); choose('fast')")
    browser.run("new Promise((done) => setTimeout(done, 500))")
    browser.run("press('generate')")
    browser.wait("!!sound('sound-0')?.src && !!sound('sound-1')?.src", WAIT)
    assert [hear(browser, name) for name in ("sound-0", "sound-1")] == pytest.approx([2, 2], abs=0.01)
    note = browser.run("at('sound-1').querySelector('.take-note').textContent")
    assert "<b>a dog</b> barks" in note  # as text
    assert "seed 1" in note
    assert "impact generate '<b>a dog</b> barks' --seed 1 --duration 2 --preset fast" in note

    browser.run("button('sound-1', 'Edit this sound').click()")
    browser.wait("at('picture')?.querySelector('img')?.naturalWidth > 1000", WAIT)
    browser.wait("at('end').querySelector('input').value > 1")  # the middle third of the new sound
    browser.run("type('drawn', 'a rooster crows'); type('start', '0.5', 'number'); type('end', '1.25', 'number')")
    browser.run("new Promise((done) => setTimeout(done, 1000))")
    browser.run("press('replace')")
    browser.wait("!!sound('edited')?.src || !!document.querySelector('.toast-wrap')?.innerText", WAIT)
    assert not browser.run("document.querySelector('.toast-wrap')?.innerText")
    assert hear(browser, "edited") == pytest.approx(2, abs=0.01)
    assert "replace 0.50 to 1.25 s: a rooster crows" in browser.run("at('edited').textContent")
    browser.wait("at('history').querySelectorAll('label').length === 3")
    assert fits(browser)
    picture(browser, "edited")
    sources = browser.run("[link('sound-1'), link('edited')]")
    before, after = (fetch(browser, source, tmp_path) for source in sources)
    rate = 16_000
    fade = round(0.02 * rate)
    np.testing.assert_array_equal(before[: rate // 2 - fade], after[: rate // 2 - fade])
    np.testing.assert_array_equal(before[rate * 5 // 4 + fade :], after[rate * 5 // 4 + fade :])
    assert np.abs(before - after)[rate // 2 : rate * 5 // 4].max() > 0


def fetch(browser: Chromium, url: str, folder: Path) -> np.ndarray:
    data = browser.run(f"fetch({json.dumps(url)}).then((r) => r.bytes()).then((b) => [...b])")
    (folder / "sound.wav").write_bytes(bytes(data))
    return soundfile.read(folder / "sound.wav", dtype="int16")[0]


def test_nothing_is_fetched_from_elsewhere(browser, server):
    names = browser.run("performance.getEntriesByType('resource').map((each) => each.name)")
    assert names
    assert not [name for name in names if not re.match(rf"{re.escape(server)}|data:|blob:", name)]
