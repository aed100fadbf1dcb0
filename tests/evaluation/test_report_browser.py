"""The report in a real browser: nothing that a file or a caption says runs as a script."""

import json

import pytest
import torch

from impact_pl.audio import save_audio
from impact_pl.cli.report import main
from tests.helpers.chromium import PROGRAM, Chromium

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")]
ATTACKS = [
    "<script>window.attacked = 1</script>",
    "<img src=x onerror='window.attacked = 1'>",
    '"><svg onload="window.attacked = 1">',
    "</title></style></script><script>window.attacked = 1</script>",
    "{{ 7 * 7 }}{% raw %}",
]
ATTACK = "".join(ATTACKS)


def test_nothing_from_outside_runs(tmp_path):
    for folder in ("real", "generated"):
        (tmp_path / folder).mkdir()
        for index in range(len(ATTACKS)):
            save_audio(tmp_path / folder / f"s{index}.flac", torch.full((8_000,), 0.1), 16_000)
    lines = [{"file": f"s{index}.flac", "caption": attack} for index, attack in enumerate(ATTACKS)]
    (tmp_path / "generated" / "generated.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = {
        "num_samples": 5,
        "rows": [{"name": "generated", "fd_cnn14": 3.0, ATTACK: 1.0}, {"name": ATTACK, "fd_cnn14": 4.0}],
        "networks": {ATTACK: {"fitted_seconds": 1.0}},
        "test_list": {"name": ATTACK},
        "notes": [ATTACK],
        "warnings": [ATTACK],
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    ratings = {"num_raters": 1, "num_samples": 1, "rows": [{"name": ATTACK, "REL": 3.0, "OVL": 4.0}]}
    (tmp_path / "ratings.json").write_text(json.dumps(ratings))
    (tmp_path / "commands.txt").write_text(ATTACK)
    (tmp_path / "loss.csv").write_text("step,loss\n1,2\n2,1\n")
    (tmp_path / "empty.csv").write_text("step,loss\n1,\n")
    losses = [f"--losses={ATTACK.replace('=', ':')}={tmp_path / name}" for name in ("loss.csv", "empty.csv")]
    main(["--run", str(tmp_path), "--title", ATTACK, "--name", ATTACK, *losses])

    browser = Chromium(tmp_path / "profile")
    try:
        browser.open(tmp_path / "report.html")
        assert browser.run("document.documentElement.classList.contains('scripted')")  # the page's own script ran
        assert browser.run("window.attacked === undefined")
        assert browser.run("document.scripts.length") == 1
        assert browser.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
        assert browser.run("document.title") == ATTACK
        assert browser.run("document.querySelector('pre').textContent") == ATTACK
        captions = browser.run("[...document.querySelectorAll('h3')].map((each) => each.textContent)")
        assert set(captions) >= set(ATTACKS)
        for word in ("hears 1.00 s", "REL", "no loss was logged"):
            assert word in browser.run("document.body.textContent")
    finally:
        browser.close()
