"""The exported page in a real browser: make, hear, mark, replace; the same sounds as Python's, and nothing foreign."""

import http.server
import json
import os
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from impact_pl.cli import export as command
from tests.helpers.chromium import PROGRAM, Chromium

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
from impact_pl.portable.edit import replace_region
from impact_pl.portable.runner import Runner

RUNTIME = os.environ.get("IMPACT_ONNXRUNTIME_WEB")  # the unpacked npm package
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed"),
    pytest.mark.skipif(RUNTIME is None, reason="IMPACT_ONNXRUNTIME_WEB does not name the npm package"),
]
PICTURES = os.environ.get("IMPACT_PICTURES")  # a folder for screenshots, to look at
RATE = 16_000
WAIT = 180.0  # seconds
SCRIPTS = """
window.at = (id) => document.getElementById(id);
window.type = (id, text) => { at(id).value = text; at(id).dispatchEvent(new Event('input')); };
window.bytes = () => fetch(at('download').href).then((r) => r.bytes()).then((b) => [...b]);
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web") / "page"
    command.main(["builtin", str(folder), "--web", "--onnxruntime-web", RUNTIME])
    return folder


@pytest.fixture(scope="module")
def server(folder):
    """A plain server of static files, which keeps the paths that it was asked for."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def browser(request, server, tmp_path):
    browser = Chromium(tmp_path / "profile", size=request.param)
    browser.call("Page.navigate", url=server)
    browser.wait("document.readyState === 'complete' && !!document.getElementById('generate')", WAIT)
    browser.run(SCRIPTS)
    browser.wait("!at('generate').disabled || at('message').textContent", WAIT)
    assert not browser.run("at('message').textContent")
    yield browser
    browser.close()


def picture(browser: Chromium, name: str) -> None:
    if PICTURES:
        width, before = browser.run("[innerWidth, innerHeight]")
        height = browser.run("document.documentElement.scrollHeight")
        metrics = {"width": width, "deviceScaleFactor": 1, "mobile": False}
        browser.call("Emulation.setDeviceMetricsOverride", height=height, **metrics)
        browser.run("new Promise((done) => setTimeout(done, 500))")
        browser.picture(Path(PICTURES) / f"{name}-{width}.png")
        browser.call("Emulation.setDeviceMetricsOverride", height=before, **metrics)


def heard(browser: Chromium, folder: Path) -> np.ndarray:
    """Wait for the answer, play it for a moment, and return the downloaded samples."""
    browser.wait("/^Done|[a-z]/.test(at('message').textContent) && at('progress').hidden", WAIT)
    assert browser.run("at('message').textContent").startswith("Done in ")
    browser.run("at('player').play().then(() => true)")
    browser.wait("at('player').currentTime > 0.1")
    browser.run("at('player').pause()")
    (folder / "sound.wav").write_bytes(bytes(browser.run("bytes()")))
    samples, rate = soundfile.read(folder / "sound.wav", dtype="int16")
    assert rate == RATE
    assert browser.run("at('player').duration") == pytest.approx(len(samples) / RATE, abs=0.01)
    return samples


def test_make_hear_mark_and_replace(browser, folder, tmp_path):
    assert "up to 5.12 s, at 16 kHz" in browser.run("at('limits').textContent")
    picture(browser, "start")
    browser.run("type('caption', 'a dog barks'); type('seconds', '2'); type('seed', '3'); at('generate').click()")
    made = heard(browser, tmp_path)
    assert len(made) == 2 * RATE
    assert np.abs(made).max() > 1000
    assert "2.00 s: “a dog barks”, seed 3, preset fast" in browser.run("at('note').textContent")
    runner = Runner(folder / "model")
    decoding = runner.decoding("fast")
    ours = runner.generate("a dog barks", 2.0, 3, decoding)
    np.testing.assert_allclose(made / 32768, ours, atol=1e-3)

    drag(browser, 0.625, 0.25)
    assert browser.run("[at('start').valueAsNumber, at('end').valueAsNumber]") == pytest.approx([0.5, 1.25], abs=0.02)
    browser.run("type('drawn', 'a rooster crows'); type('start', '0.5'); type('end', '1.25'); at('replace').click()")
    browser.wait("at('progress').value > 0")
    edited = heard(browser, tmp_path)
    np.testing.assert_array_equal(made[:7680], edited[:7680])
    np.testing.assert_array_equal(made[20320:], edited[20320:])
    assert np.abs(made.astype(int) - edited)[8000:20000].max() > 100
    expected = replace_region(runner, ours.astype(np.float64), 0.5, 1.25, "a rooster crows", 3, decoding)
    np.testing.assert_allclose(edited / 32768, expected, atol=1e-3)
    assert browser.run("[...at('takes').children].map((each) => each.textContent)") == [
        "1. a dog barks", "2. 0.5 to 1.25 s: a rooster crows",
    ]  # fmt: skip
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    picture(browser, "edited")


def drag(browser: Chromium, first: float, last: float) -> None:
    """Drag the mouse over the picture between two fractions of its width."""
    browser.run("at('picture').scrollIntoView({ block: 'center' })")
    box = browser.run("at('picture').getBoundingClientRect().toJSON()")
    for kind, share in (("mousePressed", first), ("mouseMoved", last), ("mouseReleased", last)):
        place = {"x": box["left"] + share * box["width"], "y": box["top"] + box["height"] / 2}
        browser.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **place)


def test_an_opened_sound_keeps_what_is_not_marked(browser, folder, tmp_path):
    noise = np.random.default_rng(0).normal(0, 3000, 3 * RATE).astype(np.int16)
    soundfile.write(tmp_path / "<b>own.wav", noise, RATE)
    (tmp_path / "text.wav").write_text("not a sound")
    choose(browser, tmp_path / "text.wav")
    browser.wait("at('message').textContent.startsWith('text.wav cannot be opened')")
    choose(browser, tmp_path / "<b>own.wav")
    browser.wait("at('note').textContent.startsWith('3.00 s: <b>own.wav')")
    browser.run("type('num_iterations', '4'); type('start', '2.5'); type('end', '3'); at('replace').click()")
    edited = heard(browser, tmp_path)
    np.testing.assert_array_equal(edited[: 2 * RATE], noise[: 2 * RATE])
    assert (edited[RATE * 5 // 2 :] != noise[RATE * 5 // 2 :]).mean() > 0.9


def choose(browser: Chromium, file: Path) -> None:
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#open")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])


def test_nothing_is_fetched_from_elsewhere(browser, server, folder):
    names = browser.run("performance.getEntriesByType('resource').map((each) => each.name)")
    assert names
    assert not [name for name in names if not name.startswith((server, "data:", "blob:"))]
    refused = browser.run("fetch('https://example.org/').then(() => 'fetched', (error) => error.name)")
    assert refused == "TypeError"
    script = "import(new URL('tokenizer.js', location)).then(async ({ Tokenizer }) => {"
    script += "const file = await (await fetch('model/tokenizer.json')).json();"
    captions = ["a dog's naïve Käse-barking, 3x! 犬", "x" * 120, "rain\ton\u00a0a\nroof\u200b " * 9, "ÅNGSTRÖM — 50%"]
    script += (
        f"const tokenizer = new Tokenizer(file, 32); return {json.dumps(captions)}.map((c) => tokenizer.encode(c)) }})"
    )
    tokenizer = Runner(folder / "model").tokenizer
    for caption, found in zip(captions, browser.run(script), strict=True):
        expected = tokenizer.encode(caption)
        assert found == {"ids": expected.ids, "mask": [bool(each) for each in expected.attention_mask]}
