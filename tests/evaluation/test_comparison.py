"""The published table, and one's own row in it: only what the same network made."""

import json
import re

import pytest

from impact_pl.cli.report import main
from impact_pl.evaluation.report import Report, write_report
from impact_pl.evaluation.report.published import SYSTEMS, published_table
from impact_pl.evaluation.results import EvaluationResult, RatingsResult

CNN14 = {"name": "generated", "fd_cnn14": 12.25, "fd_cnn14_interval": [11.0, 13.5], "kl_cnn14": 1.234}
RATINGS = {
    "num_raters": 12,
    "num_samples": 30,
    "rows": [{"name": "mine", "REL": 4.5, "REL_interval": [4.25, 4.75], "OVL": 3.5, "OVL_interval": [3.25, 3.75]}],
}


def metrics(row: dict, test_list: str | None = "tango_886") -> dict:
    named = None if test_list is None else {"name": test_list, "num_clips": 886, "checksum": "0"}
    noise = {"name": "noise"} | {key: 99.0 for key in row if key not in ("name", "fd_cnn14_interval")}
    return {"num_samples": 886, "duration_seconds": 10.0, "test_list": named, "rows": [row, noise]}


def table(row: dict, test_list: str | None = "tango_886", ratings: dict | None = RATINGS):
    result = EvaluationResult.model_validate_json(json.dumps(metrics(row, test_list)))
    rated = None if ratings is None else RatingsResult.model_validate_json(json.dumps(ratings))
    return published_table(result, rated, "mine")


def test_own_metrics_stand_in_the_columns_of_their_networks():
    found = table(CNN14)
    assert len(found.rows) == len(SYSTEMS)
    assert [(cell.text, *cell.small) for cell in found.own_cells] == [
        ("12.25", "11.00 to 13.50"),
        ("–",),
        ("1.234",),
        ("–",),
        ("–",),
        ("4.50", "4.25 to 4.75"),
        ("3.50", "3.25 to 3.75"),
        ("–",),
        ("–",),
    ]
    assert found.own_label == "tango_886, N = 886; 12 raters, 30 clips"
    assert found.is_comparable


@pytest.mark.parametrize("test_list", [None, "custom (886 clips)"])
def test_other_clips_are_not_comparable(tmp_path, test_list):
    assert not table(CNN14, test_list).is_comparable
    result = EvaluationResult.model_validate_json(json.dumps(metrics(CNN14, test_list)))
    write_report(Report(metrics=result), tmp_path / "page.html")
    assert "Not comparable" in (tmp_path / "page.html").read_text()


def test_metrics_of_other_networks_make_no_table():
    assert table({"name": "generated", "fd_yamnet": 30.0, "kl": 2.0}, ratings=None) is None
    assert published_table(None, None, "mine") is None


def test_ratings_of_another_system_are_refused(tmp_path, capsys):
    (tmp_path / "ratings.json").write_text(json.dumps(RATINGS))
    with pytest.raises(SystemExit) as stop:
        main(["--ratings", str(tmp_path / "ratings.json"), "--out", str(tmp_path / "page.html"), "--name", "other"])
    assert stop.value.code == 2
    assert "the ratings are of mine, not of 'other': say with --name" in capsys.readouterr().err
    main(["--ratings", str(tmp_path / "ratings.json"), "--out", str(tmp_path / "page.html"), "--name", "mine"])
    assert "4.25 to 4.75" in (tmp_path / "page.html").read_text()
    (tmp_path / "ratings.json").write_text('{"rows": [{"name": "mine"}]}')
    with pytest.raises(SystemExit):
        main(["--ratings", str(tmp_path / "ratings.json"), "--out", str(tmp_path / "page.html")])
    assert "ratings.json: key 'num_raters' is missing; write it again" in capsys.readouterr().err


def test_the_page_tells_published_figures_first(tmp_path):
    both = CNN14 | {"fd_yamnet": 30.0, "clap_score": 0.25, "clap_score_shuffled": 0.125, "fad_vggish": 3.0}
    networks = {"cnn14": {"fitted_seconds": None}, "yamnet": {"fitted_seconds": 10.0}}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics(both) | {"notes": ["a note"], "networks": networks}))
    main(["--metrics", str(tmp_path / "metrics.json"), "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text().replace("\n", " ")
    assert "886 sounds (cnn14 hears the whole, yamnet hears 10.00 s of each)" in page
    assert re.search(r"at a distance of <strong>12\.2</strong> from real ones \(FD on CNN14, N = 886\)", page)
    assert "shuffled 0.125" in page
    assert "11.00 to 13.50" in page
