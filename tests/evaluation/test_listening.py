"""The listening test: the page's data, what its raters' files may hold, and means with intervals."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
import soundfile
import torch

from impact_pl.audio import save_audio
from impact_pl.cli.listening import main
from impact_pl.errors import UserError
from impact_pl.evaluation.listening import COLUMNS, Key, crossed_interval, read_key, read_ratings, summarise, write_test
from impact_pl.evaluation.sounds import list_sounds, read_captions

SYSTEMS = ("real", "secret-base", "secret-large")
KEY = {"test": "a", "seed": 0, "salt": "s", "systems": ["x"]}
CAPTION = 'a </script> "dog" & rain'


@pytest.fixture
def folders(tmp_path):
    """Three systems with sounds for five captions; the level of a sound tells its system."""
    for level, system in enumerate(SYSTEMS, start=1):
        (tmp_path / system).mkdir()
        for index in range(5):
            save_audio(tmp_path / system / f"clip{index}.wav", torch.full((800,), 0.1 * level), 16_000)
    lines = [{"id": f"clip{index}", "caption": f"{CAPTION} {index}"} for index in range(5)]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def make(folders, *more, out="test", num=4) -> Key:
    given = [f"--system={system}={folders / system}" for system in SYSTEMS]
    given += ["--captions", folders / "captions.jsonl", "--out", folders / out, "--num-samples", num, *more]
    main([*(str(each) for each in given)])
    return read_key(folders / out / "key.json")


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def write_ratings(path, key: Key, rater: str, rate) -> None:
    """A rater's file; ``rate`` (system, clip) -> (REL, OVL)."""
    with open(path, "w", newline="") as file:
        rows = [[key.test, rater, item, *rate(entry.system, entry.clip)] for item, entry in key.items.items()]
        csv.writer(file).writerows([COLUMNS, *rows])


def test_the_page_holds_the_sounds_and_hides_the_systems(folders):
    key = make(folders)
    page = (folders / "test" / "listening.html").read_text(encoding="utf-8")
    data = data_of(page)
    assert len(data["items"]) == len(key.items) == 4 * 3
    assert len({entry.clip for entry in key.items.values()}) == 4
    for item in data["items"]:
        entry = key.items[item["id"]]
        assert item["caption"] == entry.caption
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(item["audio"])))
        assert rate == 16_000
        assert samples == pytest.approx([0.1 * (1 + SYSTEMS.index(entry.system))] * 800, abs=1e-4)
    text = re.sub(r'"audio": "[^"]+"', "", page)
    assert not re.search(r"secret|clip\d|real", text)
    assert not re.search(r"""(src|href)="(?!data:)|url\(|@import|https?:""", text)  # nothing points outside
    ids = [item["id"] for item in data["items"]]
    assert ids == sorted(ids)  # the order says nothing either


def clips_of(key: Key) -> set[str]:
    return {entry.clip for entry in key.items.values()}


def test_the_seed_draws_the_captions_and_a_secret_salt_the_names(folders):
    """Who knows seed, systems and captions cannot tell whose an item is: the salt is in key.json alone."""
    first, again = make(folders), make(folders, out="again")
    assert clips_of(first) == clips_of(again)
    assert not set(first.items) & set(again.items)
    assert first.salt not in (folders / "test" / "listening.html").read_text(encoding="utf-8")
    others = {frozenset(clips_of(make(folders, "--seed", str(seed), out="other"))) for seed in range(5)}
    assert others > {frozenset(clips_of(first))}


def test_the_same_salt_makes_the_same_page(folders):
    systems = {system: list_sounds(folders / system) for system in SYSTEMS}
    captions = read_captions(folders / "captions.jsonl")
    for out in ("a.html", "b.html"):
        write_test(systems, captions, folders / out, 4, 0, "Test", salt="pepper")
    assert (folders / "a.html").read_bytes() == (folders / "b.html").read_bytes()


def test_two_sounds_of_one_clip_are_an_error(folders, capsys):
    for name in ("Y7fmOlUlwoNg.wav", "7fmOlUlwoNg_20.wav"):
        save_audio(folders / "real" / name, torch.zeros(800), 16_000)
    (folders / "list.csv").write_text("id,caption\nY7fmOlUlwoNg,a machine\n")
    with pytest.raises(SystemExit) as stop:
        make(folders, "--captions", folders / "list.csv", num=1)
    assert stop.value.code == 2
    assert "--system real: the clip 7fmOlUlwoNg has two sounds" in capsys.readouterr().err


def test_ratings_become_means_with_intervals(folders, capsys):
    key = make(folders)
    for rater in range(3):
        write_ratings(folders / f"{rater}.csv", key, f"r{rater}", lambda system, clip: (SYSTEMS.index(system) + 1, 5))
    files = [str(folders / f"{rater}.csv") for rater in range(3)]
    capsys.readouterr()
    main(["ratings", "--key", str(folders / "test" / "key.json"), *files, "--out", str(folders / "r.json")])
    result = json.loads((folders / "r.json").read_text())
    assert [row["REL"] for row in result["rows"]] == [1, 2, 3]
    assert [row["REL_interval"] for row in result["rows"]] == [[1, 1], [2, 2], [3, 3]]
    assert (result["num_raters"], result["num_samples"]) == (3, 4)
    said = capsys.readouterr()
    assert "secret-large" in said.out
    assert "warning: 3 raters; published tests have at least 10" in said.err


def test_the_interval_covers_raters_and_captions():
    """Crossed effects of raters and of captions: the interval of the mean must cover the true one."""
    generator = np.random.default_rng(0)
    covered, widths = 0, []
    for _ in range(100):
        raters, clips = generator.standard_normal((10, 1)), generator.standard_normal((1, 30))
        values = 3 + 0.5 * raters + 0.5 * clips + 0.5 * generator.standard_normal((10, 30))
        low, high = crossed_interval(values, generator)
        covered += low <= 3 <= high
        widths.append(high - low)
    assert covered >= 87  # 95 in expectation; ten raters are few for percentiles
    truth = 2 * 1.96 * np.sqrt(0.25 / 10 + 0.25 / 30 + 0.25 / 300)
    assert np.mean(widths) == pytest.approx(truth, rel=0.1)


def test_every_system_has_its_own_ratings(folders):
    key = make(folders)
    ratings = {"a": {}, "b": {}}
    for number, (item, entry) in enumerate(key.items.items()):
        for rater in ratings:
            ratings[rater][item] = {"REL": 1 + number % 5, "OVL": 1 + SYSTEMS.index(entry.system)}
    rows = summarise(ratings, key)["rows"]
    assert [row["OVL"] for row in rows] == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("REL", "rel"),
            "no column 'REL'",
        ),
        (lambda text: "", "me.csv"),
        (lambda text: text.splitlines()[0], "has a header but no rows"),
        (lambda text: text.replace(",3,", ",3.5,", 1), "line 2: REL '3.5' is not a whole number from 1 to 5"),
        (lambda text: text.replace(",3,", ",6,", 1), "line 2: REL '6'"),
        (lambda text: text.replace(",3,", ",,", 1), "line 2: REL ''"),
        (lambda text: "\n".join(text.splitlines()[:-1]), "1 of 12 clips are not rated by 'me'"),
        (lambda text: text + text.splitlines()[1], "line 14: the item"),
        (lambda text: text.replace(text.splitlines()[1].split(",")[0], "0123"), "line 2: belongs to the test '0123'"),
        (lambda text: text.replace(text.splitlines()[1].split(",")[2], "x"), "line 2: the test has no item 'x'"),
        (lambda text: text + "a,b\n", "line 14: 2 cells, but the header has 5"),
    ],
)
def test_bad_ratings_are_named(folders, change, message):
    key = make(folders)
    write_ratings(folders / "me.csv", key, "me", lambda system, clip: (3, 4))
    text = (folders / "me.csv").read_text()
    (folders / "me.csv").write_text(change(text))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_ratings([folders / "me.csv"], key)


def test_a_rater_in_two_files_is_an_error(folders):
    key = make(folders)
    for name in ("a.csv", "b.csv"):
        write_ratings(folders / name, key, "me", lambda system, clip: (3, 4))
    with pytest.raises(ValueError, match=r"the rater 'me' is in .*a\.csv too"):
        read_ratings([folders / "a.csv", folders / "b.csv"], key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--num-samples", "6"], "6 captions are wanted, but only 5 have a sound of every system"),
        (["--system", "real"], "--system 'real': expected NAME=PATH"),
        (["--system", "x=absent"], "absent: no such folder of sounds"),
        (["--captions", "absent.jsonl"], "absent.jsonl: no such file of captions"),
    ],
)
def test_mistakes_end_with_a_message(folders, capsys, change, message):
    with pytest.raises(SystemExit) as stop:
        make(folders, *change)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ""),
        ("{}", "key 'test' is missing"),
        ("[1]", ""),
        (json.dumps(KEY | {"items": {"i": {"system": "y", "clip": "c", "caption": "x"}}}), "do not agree on 'x'"),
        (json.dumps(KEY | {"items": {"i": {"system": "x", "clip": 3, "caption": "x"}}}), "key 'items.i.clip'"),
        (json.dumps(KEY | {"items": {}, "systems": [], "more": 1}), "unknown key 'more'"),
    ],
)
def test_a_bad_key_is_named(tmp_path, text, message):
    (tmp_path / "key.json").write_text(text)
    with pytest.raises(UserError, match=rf"key\.json: .*{message}.*is it the"):
        read_key(tmp_path / "key.json")
