"""docs/reproduce.md, walked on small folders in the published formats: the data, then figures, ratings and the page.

The commands are the document's own, in its order. Latents, training and generation between them take longer
(tests/test_whole_way.py); here, what they would have made is put in their place.
"""

import csv
import json
from pathlib import Path

from impact_pl.cli.main import main
from impact_pl.data.manifest import read_manifest
from tests.helpers.reproduce import TEST_CLIPS, section
from tests.helpers.tiny_networks import write_tones, write_weights

SYSTEMS = ("base_t64_audioset", "large_t64_audioset")


def run(command: list[str]) -> None:
    assert command[0] == "impact"
    main(command[1:])


def test_data(disk, capsys):
    for command in section("Manifests"):
        run(command)
    assert "2 of 6 listed clips have no file" in capsys.readouterr().out
    assert Path("data/audiocaps/train.missing.txt").read_text().split() == ["train_gone3"] * 2
    records = read_manifest("data/ac_wc/manifest.jsonl")
    assert {record.split for record in records} == {"train", "valid"}
    wavcaps = [record.id for record in records if record.id.startswith("wavcaps/")]
    assert wavcaps == [
        "wavcaps/fsd_final/100",
        "wavcaps/bbc_final/NHU05093027",
        "wavcaps/sb_final/200",
        "wavcaps/as_final/Yonly_here_1",
    ]
    assert all(Path(record.path).is_file() and record.caption for record in records)
    audioset = read_manifest("data/audioset/manifest.jsonl")
    assert [record.id for record in audioset] == ["audioset/balanced_11_30", "audioset/unbalanc_11_30"]
    assert audioset[0].labels == ("Speech", "Music")
    kept_out = set(TEST_CLIPS) & {record.source.removeprefix("youtube/") for record in records + audioset}
    assert not kept_out


def test_figures_ratings_and_the_page(disk):
    run(section("Manifests")[2])  # AudioCaps' test set
    write_weights(Path("weights"))
    for number, system in enumerate(SYSTEMS, start=30):
        write_tones(Path("runs") / system / "generated", [f"{clip}_30.wav" for clip in TEST_CLIPS], number)
    for command in section("Figures"):
        run(command)
    result = json.loads(Path("runs/base_t64_audioset/metrics.json").read_text())
    assert result["test_list"]["name"] == "custom (30 clips)"
    assert [row["name"] for row in result["rows"]] == ["generated", "noise"]
    assert {"fd_cnn14", "fad_vggish", "kl_cnn14", "is_cnn14", "clap_score"} <= set(result["rows"][0])

    listening, ratings = section("Listening test")
    run(listening)
    key = json.loads(Path("runs/listening/key.json").read_text())
    assert len(key["items"]) == 30 * 3
    Path("raters").mkdir()
    for rater in ("1", "2"):
        with open(f"raters/{rater}.csv", "w", newline="") as file:
            rows = [[key["test"], rater, item, 4, 3] for item in key["items"]]
            csv.writer(file).writerows([["test", "rater", "item", "REL", "OVL"], *rows])
    run(ratings)
    (page,) = section("The page")
    run(page)
    text = Path("runs/large_t64_audioset/report.html").read_text(encoding="utf-8")
    assert "Published systems" in text
    assert "Not comparable" in text  # thirty invented clips are no published list
    assert "custom (30 clips), N = 30; 2 raters, 30 clips" in text
