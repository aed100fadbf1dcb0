"""The listening test in a real browser: a rater listens, rates, reloads, exports; the CSV becomes means."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from impact_pl.cli.listening import main
from tests.helpers.chromium import PROGRAM, Chromium

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")]
NUM_SAMPLES = 6
PICTURES = os.environ.get("IMPACT_PICTURES")  # a folder for screenshots, to look at


@pytest.fixture
def page(tmp_path) -> Path:
    random = np.random.default_rng(0)
    for system in ("one", "two"):
        (tmp_path / system).mkdir()
        for index in range(NUM_SAMPLES):
            soundfile.write(tmp_path / system / f"c{index}.wav", 0.1 * random.standard_normal(8000), 16_000)
    lines = [{"id": f"c{index}", "caption": f"Rain falls on roof {index}"} for index in range(NUM_SAMPLES)]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ["--system", f"one={tmp_path}/one", "--system", f"two={tmp_path}/two", "--out", str(tmp_path / "test.html")]
    main([*given, "--captions", str(tmp_path / "captions.jsonl"), "--num-samples", str(NUM_SAMPLES)])
    return tmp_path / "test.html"


@pytest.fixture
def browser(tmp_path):
    browser = Chromium(tmp_path / "profile", os.environ.get("IMPACT_SCHEME", "light"))
    yield browser
    browser.close()


def begin(browser, page: Path, rater: str) -> None:
    browser.open(page)
    picture(browser, "start")
    browser.run(f"at('rater').value = {json.dumps(rater)}; at('enter').requestSubmit()")
    browser.wait("!at('rating').hidden")


def listen_and_rate(browser, rel: int, ovl: int) -> None:
    """The clip is decoded and heard before its scale can be used."""
    browser.run("at('audio').play()")
    browser.wait("at('audio').currentTime > 0 && !at('scales').children[0].disabled")
    browser.run(f"at('REL{rel}').click(); at('OVL{ovl}').click()")


def picture(browser, name: str) -> None:
    if PICTURES:
        browser.picture(Path(PICTURES) / f"{name}.png")


def test_a_rater_s_way(browser, page, tmp_path, capsys):
    browser.save_downloads(tmp_path)
    begin(browser, page, 'Ann "A", 1')
    assert browser.run("at('scales').children[0].disabled")  # not before it was played
    rated = {}
    order = browser.run("order.map((item) => item.id)")
    for index in range(5):
        rated[order[index]] = (1 + index % 5, 5 - index % 5)
        listen_and_rate(browser, *rated[order[index]])
        browser.run("at('next').click()")
    picture(browser, "rating")
    assert browser.run("at('export').disabled")

    browser.open(page)  # reloaded, as after a crash
    assert browser.run("at('rater').value") == 'Ann "A", 1'
    begin(browser, page, 'Ann "A", 1')
    assert browser.run("order.map((item) => item.id)") == order
    assert browser.run("[numRated(), place]") == [5, 5]
    for index in range(5, 2 * NUM_SAMPLES):
        rated[order[index]] = (1 + index % 5, 5 - index % 5)
        listen_and_rate(browser, *rated[order[index]])
        if index == 8:
            browser.run("at('next').click(); at('previous').click(); at('next').click()")
        else:
            browser.run("at('unrated').click()")
    assert browser.run("at('status').textContent").startswith("All clips are rated")
    picture(browser, "done")
    browser.run("at('export').click()")
    end = time.monotonic() + 20
    while not (exported := list(tmp_path.glob("ratings-*.csv"))):
        assert time.monotonic() < end, "nothing was downloaded"
        time.sleep(0.1)

    capsys.readouterr()
    main(["ratings", "--key", str(tmp_path / "key.json"), str(exported[0]), "--out", str(tmp_path / "result.json")])
    result = json.loads((tmp_path / "result.json").read_text())
    key = json.loads((tmp_path / "key.json").read_text())
    for row in result["rows"]:
        own = [rated[item] for item, entry in key["items"].items() if entry["system"] == row["name"]]
        assert [row["REL"], row["OVL"]] == pytest.approx(np.mean(own, axis=0))
    assert "1 raters" in capsys.readouterr().out


def test_another_rater_has_another_order_and_other_ratings(browser, page):
    begin(browser, page, "one")
    first = browser.run("order.map((item) => item.id)")
    listen_and_rate(browser, 3, 4)
    begin(browser, page, "two")
    assert browser.run("numRated()") == 0
    second = browser.run("order.map((item) => item.id)")
    assert first != second
    assert sorted(first) == sorted(second)


def test_nothing_from_outside_runs_and_no_cell_is_a_formula(browser, page, tmp_path):
    """Captions and titles are text; a name that a spreadsheet would compute is written with an apostrophe."""
    attack = "</script><script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"
    lines = [{"id": f"c{index}", "caption": attack} for index in range(NUM_SAMPLES)]
    (tmp_path / "attack.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ["--system", f"one={tmp_path}/one", "--out", str(tmp_path / "attack.html"), "--title", attack]
    main([*given, "--captions", str(tmp_path / "attack.jsonl"), "--num-samples", "2"])
    begin(browser, tmp_path / "attack.html", '=HYPERLINK("http://x")')
    assert browser.run("document.title") == attack
    assert browser.run("at('caption').textContent") == attack
    assert browser.run("window.attacked === undefined")
    browser.run("order.forEach((item) => ratings[item.id] = {REL: 3, OVL: 4})")
    text = browser.run("csvText()")
    assert text.splitlines()[1].split(",", 1)[1].startswith('"\'=HYPERLINK(""http://x"")",')
    assert [browser.run(f"cell({json.dumps(start + 'x')})") for start in "=+-@"] == ["'=x", "'+x", "'-x", "'@x"]
