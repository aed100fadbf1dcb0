"""The HTML report: self-contained, complete, and safe with any caption."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
import soundfile
import torch

from impact_pl.audio import save_audio
from impact_pl.cli.report import main
from impact_pl.evaluation.report import CaptionSounds, Report, read_caption_sounds, write_report
from impact_pl.evaluation.report.charts import loss_chart_uri, read_curves, running_mean, spectrogram_uri
from impact_pl.evaluation.report.page import MAX_BYTES

RATE = 16_000
CAPTION = 'a <script>alert("dog")</script> & barks'
FOLDERS = ("real", "reconstructed", "generated", "generated_untrained")


def write_metrics(path) -> None:
    rows = [
        {"name": name, "fd_yamnet": distance, "kl": kl, "kl_interval": kl and [kl - 0.1, kl + 0.1]}
        for name, distance, kl in [("real", 15.0, None), ("untrained", 60.5, 4.0), ("generated", 30.25, 2.0)]
    ]
    path.write_text(json.dumps({"num_samples": 2, "duration_seconds": 0.5, "rows": rows, "notes": ["N < 5"]}))


@pytest.fixture
def run(tmp_path):
    """A run's folder as the demo leaves it."""
    for index, folder in enumerate(FOLDERS):
        (tmp_path / folder).mkdir()
        for name in ("s1", "s2", "s3"):
            save_audio(tmp_path / folder / f"{name}.flac", torch.full((RATE // 2,), 0.1 * index), RATE)
    lines = [{"file": f"{name}.flac", "caption": caption} for name, caption in [("s1", CAPTION), ("s2", "rain")]]
    (tmp_path / "generated" / "generated.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for stage in ("pretrain", "text"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "metrics.csv").write_text(
            "step,train/loss,valid/loss\n10,1.5,\n20,,0.9\n20,0.75,\n30,nan,\n"
        )
    (tmp_path / "text" / "model").mkdir()
    model = {"dim": 64, "depth": 2, "num_heads": 4, "head_depth": 3, "head_width": 128}
    codec = {"name": "builtin", "identity": "ab", "sample_rate": 16_000, "samples_per_latent": 640}
    spec = {"model": model, "codec": codec, "latent_channels": 64, "latent_width": 1, "text_encoder": None}
    (tmp_path / "text" / "model" / "config.json").write_text(json.dumps(spec))
    (tmp_path / "commands.txt").write_text("impact train experiment=demo > log\n")
    write_metrics(tmp_path / "metrics.json")
    return tmp_path


class Page(HTMLParser):
    """Collects tags and text, and checks that every tag is closed in order."""

    VOID = {"meta", "link", "img"}

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.words, self._open = [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_whole_page(run, capsys):
    main(["--run", str(run)])
    assert "2 captions" in capsys.readouterr().out
    text = (run / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    words = "".join(page.words)
    assert len(page.all("audio")) == len(page.all("button")) == 2 * 4
    assert CAPTION in words  # as text ...
    assert len(page.all("script")) == 1  # ... and not as a tag
    for expected in ("30.2", "15.0", "60.5", "1.90 to 2.10", "impact train experiment=demo > log", "N < 5"):
        assert expected in words
    assert "width 64, 2 + 2 blocks" in words
    assert "25 latents a second of 64 x 1 numbers" in words
    charts = [image["src"] for image in page.all("img") if image["src"].startswith("data:image/svg+xml")]
    assert len(charts) == 2
    assert all(button["aria-label"].startswith("Play: ") for button in page.all("button"))


def test_nothing_points_outside(run):
    main(["--run", str(run)])
    text = (run / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    links = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href")]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"url\(|@import|https?:", text)
    assert {attrs["href"][1:] for attrs in page.all("a")} == {attrs["id"] for attrs in page.all("section")}


def test_sounds_are_the_files_themselves(run):
    main(["--run", str(run)])
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    first = page.all("audio")[2]["src"]  # generated
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(first.partition(",")[2])))
    assert rate == RATE
    assert samples == pytest.approx([0.2] * (RATE // 2), abs=1e-4)


def test_same_input_same_page(run):
    main(["--run", str(run)])
    first = (run / "report.html").read_bytes()
    main(["--run", str(run)])
    assert (run / "report.html").read_bytes() == first


def test_different_captions_come_first(run):
    lines = [
        {"file": f"s{index}.flac", "caption": caption} for index, caption in [(1, "rain"), (2, "rain"), (3, "wind")]
    ]
    (run / "generated" / "generated.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for seed in range(4):
        main(["--run", str(run), "--limit", "2", "--seed", str(seed)])
        words = Page((run / "report.html").read_text(encoding="utf-8")).words
        assert words.count("rain") == words.count("wind") == 1


def test_parts_that_are_missing_are_left_out(run, tmp_path):
    for name in ("metrics.json", "commands.txt"):
        (run / name).unlink()
    rows = [{"caption": "x", "generated": "generated/s1.flac"}]
    (run / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n")
    main(["--rows", str(run / "rows.jsonl"), "--out", str(tmp_path / "new" / "page.html")])
    page = Page((tmp_path / "new" / "page.html").read_text(encoding="utf-8"))
    assert [section["id"] for section in page.all("section")] == ["listen"]
    assert len(page.all("audio")) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--run", "absent"], "absent: no such run folder"),
        ([], "give --run DIR, or --out"),
        (["--out", "page.html"], "nothing to report"),
        (["--run", ".", "--metrics", "absent.json"], "--metrics absent.json: does not exist"),
        (["--run", ".", "--metrics", "commands.txt"], "commands.txt: not JSON"),
        (["--run", ".", "--untrained", "text"], "text: holds no sound"),
        (["--run", ".", "--limit", "0"], "--limit 0"),
        (["--run", ".", "--losses", "text/metrics.csv"], "expected NAME=CSV"),
        (["--run", ".", "--losses", "a=commands.txt"], "commands.txt: no loss in it"),
        (["--run", ".", "--rows", "commands.txt"], "commands.txt, line 1: not JSON"),
    ],
)
def test_mistakes_end_with_a_message(run, capsys, monkeypatch, change, message):
    monkeypatch.chdir(run)
    with pytest.raises(SystemExit) as stop:
        main(change)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[1].update(kl="2.0"),
            "metrics.json: key 'rows.1.values.kl': input should be a valid number, got '2.0'; write it again",
        ),
        (lambda rows: rows[1].update(kl=float("nan")), "'rows.1.values.kl': input should be a finite number, got nan"),
        (lambda rows: rows[2].update(kl_interval=[1.0]), "'rows.2.intervals.kl.1'"),
        (lambda rows: rows[2].pop("name"), "key 'rows.2.name' is missing"),
        (lambda rows: rows[2].update(name="made"), "the row generated is missing; it has made, real, untrained"),
        (lambda rows: rows.insert(0, 3), "'rows.0'"),
        (lambda rows: rows.clear(), "'rows'"),
    ],
)
def test_damaged_metrics_are_named(run, capsys, change, message):
    metrics = json.loads((run / "metrics.json").read_text())
    change(metrics["rows"])
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(SystemExit) as stop:
        main(["--run", str(run)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "row", [{"name": "mine", "REL": "4.5", "OVL": 3.5}, {"name": "mine", "OVL": 3.5}, {"REL": 4.5}]
)
def test_damaged_ratings_are_named(run, capsys, row):
    (run / "ratings.json").write_text(json.dumps({"num_raters": 10, "num_samples": 2, "rows": [row]}))
    with pytest.raises(SystemExit) as stop:
        main(["--run", str(run), "--name", "mine"])
    assert stop.value.code == 2
    assert re.search(r"ratings\.json: .*write it again with impact listening", capsys.readouterr().err)


def test_a_metric_that_a_row_lacks_is_a_dash(run):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["rows"][0].pop("fd_yamnet")
    (run / "metrics.json").write_text(json.dumps(metrics))
    main(["--run", str(run)])
    assert "–" in "".join(Page((run / "report.html").read_text(encoding="utf-8")).words)


def test_deep_nesting_is_a_users_error(run, capsys):
    (run / "metrics.json").write_text("[" * 100_000)
    with pytest.raises(SystemExit) as stop:
        main(["--run", str(run)])
    assert stop.value.code == 2
    assert "metrics.json: " in capsys.readouterr().err


@pytest.mark.parametrize("line", ['{"caption": "x"}', '{"real": "a.wav"}', '{"caption": "x", "reel": "a.wav"}', "[]"])
def test_bad_rows_are_named(tmp_path, line):
    (tmp_path / "rows.jsonl").write_text("\n" + line)
    with pytest.raises(ValueError, match="line 2"):
        read_caption_sounds(tmp_path / "rows.jsonl")


def test_a_page_too_large_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at most 25"):
        write_report(Report(commands="x" * MAX_BYTES), tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_sound_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.wav"):
        write_report(Report(captions=[CaptionSounds("x", {"real": tmp_path / "gone.wav"})]), tmp_path / "page.html")


def test_curves_leave_empty_cells_out(tmp_path):
    (tmp_path / "m.csv").write_text(
        "step,epoch,train/loss,valid/loss\n10,0,1.5,\n20,0,,0.9\n5,0,2,\n30,1,inf,\nbad,1,1,\n"
    )
    assert read_curves(tmp_path / "m.csv") == ([(5, 2), (10, 1.5)], [(20, 0.9)])


def test_running_mean_keeps_lines_and_ends():
    line = [(float(step), 3.0 - 0.5 * step) for step in range(50)]
    assert [step for step, _ in running_mean(line)] == [step for step, _ in line]
    assert [loss for _, loss in running_mean(line)] == pytest.approx([loss for _, loss in line])
    assert running_mean(line[:1]) == line[:1]


@pytest.mark.parametrize("train", [[(10.0, 0.5)], [(0.0, 0.3), (10.0, 0.3)], [(1.0, -2.0), (2.0, 1e5), (3.0, 0.0)], []])
def test_charts_of_odd_curves_are_drawn(train):
    kind, _, content = loss_chart_uri(train, [(10.0, 0.5)]).partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(content).rstrip().endswith(b"</svg>")


def test_spectrogram_has_a_pixel_a_frame():
    png = base64.b64decode(spectrogram_uri(torch.zeros(RATE)).partition(",")[2])
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(png[16:20], "big") == 100
    assert int.from_bytes(png[20:24], "big") == 96
