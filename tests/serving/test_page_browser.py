"""The page of `impact serve` in a real browser: type, press, hear, mark, replace, on a desktop and on a phone."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.helpers import serving_page
from tests.helpers.chromium import PROGRAM, Chromium
from tests.helpers.serving_page import WAIT, settle

pytest.importorskip("gradio", reason="the extra serve is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")]
PICTURES = os.environ.get("IMPACT_PICTURES")  # a folder for screenshots, to look at
RATE = 16_000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving_page.serving(tmp_path_factory.mktemp("temporary")) as url:
        yield url


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def browser(request, server, tmp_path):
    browser = serving_page.open_page(tmp_path / "profile", server, request.param)
    yield browser
    browser.close()


def picture(browser: Chromium, name: str) -> None:
    if PICTURES:
        serving_page.picture(browser, Path(PICTURES) / f"{name}-{browser.run('innerWidth')}.png")


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
    settle(browser)
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
    settle(browser, 1000)
    browser.run("press('replace')")
    browser.wait("!!sound('edited')?.src || !!toast()", WAIT)
    assert not browser.run("toast()")
    assert hear(browser, "edited") == pytest.approx(2, abs=0.01)
    assert "replace 0.50 to 1.25 s: a rooster crows" in browser.run("at('edited').textContent")
    browser.wait("at('history').querySelectorAll('label').length === 3")
    assert fits(browser)
    picture(browser, "edited")
    sources = browser.run("[link('sound-1'), link('edited')]")
    before, after = (fetch(browser, source, tmp_path) for source in sources)
    fade = round(0.02 * RATE)
    np.testing.assert_array_equal(before[: RATE // 2 - fade], after[: RATE // 2 - fade])
    np.testing.assert_array_equal(before[RATE * 5 // 4 + fade :], after[RATE * 5 // 4 + fade :])
    assert np.abs(before - after)[RATE // 2 : RATE * 5 // 4].max() > 0


def fetch(browser: Chromium, url: str, folder: Path) -> np.ndarray:
    data = browser.run(f"fetch({json.dumps(url)}).then((r) => r.bytes()).then((b) => [...b])")
    (folder / "sound.wav").write_bytes(bytes(data))
    return soundfile.read(folder / "sound.wav", dtype="int16")[0]


def test_nothing_is_fetched_from_elsewhere(browser, server):
    names = browser.run("performance.getEntriesByType('resource').map((each) => each.name)")
    assert names
    assert not [name for name in names if not re.match(rf"{re.escape(server)}|data:|blob:", name)]


def test_upload_extend_vary_loop(browser, tmp_path):
    """Each one works on the result of the one before it, which its button takes up."""
    sound = 0.1 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    soundfile.write(tmp_path / "tone.wav", sound, RATE)
    (tmp_path / "words.wav").write_text("not a sound")

    def upload(name: str) -> None:
        field = browser.call("Runtime.evaluate", expression="at('source').querySelector('input[type=file]')")
        node = browser.call("DOM.requestNode", objectId=field["result"]["objectId"])["nodeId"]
        browser.call("DOM.setFileInputFiles", files=[str(tmp_path / name)], nodeId=node)

    browser.call("DOM.getDocument")
    upload("words.wav")
    browser.wait("toast()?.includes('words.wav')", WAIT)
    picture(browser, "refused")
    browser.run("at('source').querySelector('button[aria-label=Clear]').click()")
    browser.wait("!!at('source').querySelector('input[type=file]')")
    browser.call("DOM.getDocument")
    upload("tone.wav")
    browser.wait("at('picture')?.querySelector('img')?.naturalWidth > 1000", WAIT)
    browser.run("document.querySelectorAll('.toast-close').forEach((each) => each.click())")
    browser.run("type('drawn', 'a dog barks'); choose('fast')")
    seconds, last = 2.0, 0
    for name, added in (("Extend", 2.0), ("Vary", 0), ("Loop", 0)):
        browser.run(f"tab('{name}')")
        browser.wait(f"shown('button.primary', '{name}').length === 1")
        settle(browser)
        browser.run(f"shown('button.primary', '{name}')[0].click()")
        last, seconds = last + 1, seconds + added
        browser.wait(f"at('history').querySelectorAll('label').length === {last} || !!toast()", WAIT)
        assert not browser.run("toast()")
        browser.wait(f"at('edited').textContent.includes('{name.lower()}')")
        assert hear(browser, "edited") == pytest.approx(seconds, abs=0.01)
        picture(browser, name.lower())
        browser.run("button('edited', 'Edit this sound further').click()")
        browser.wait(f"Math.abs(Number(at('end').querySelector('input').value) - {2 * seconds / 3}) < 0.02", WAIT)
    assert fits(browser)
