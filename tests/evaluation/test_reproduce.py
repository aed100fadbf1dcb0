"""docs/reproduce.md, walked on small folders in the published formats: the data, then figures, ratings and the page.

The commands are the document's own, in its order. Latents, training and generation between them take longer
(tests/test_whole_way.py); here, what they would have made is put in their place.
"""

import csv
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
from tiny_networks import write_tones, write_weights

from impact_pl.cli import evaluate
from impact_pl.data.manifest import read_manifest

DOCUMENT = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text(encoding="utf-8")
TEST_CLIPS = [f"{index:02d}fmOlUlwoN" for index in range(30)]  # as long as a YouTube id
SYSTEMS = ("base_t64_audioset", "large_t64_audioset")


def section(title: str) -> list[list[str]]:
    """The command lines below a heading, split into words."""
    body = DOCUMENT.split(f". {title}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", body, flags=re.DOTALL)
    return [shlex.split(line) for line in "".join(blocks).replace("\\\n", " ").splitlines()]


def run(command: list[str]) -> None:
    if command[0] == "python":
        importlib.import_module(command[2]).main(command[3:])
    else:
        assert command[0] == "impact-evaluate"
        evaluate.main(command[1:])


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """What the document says has to be there, with a few clips each; some are listed but not on disk."""
    monkeypatch.chdir(tmp_path)
    audiocaps, wavcaps, audioset = (Path("datasets") / name for name in ("audiocaps", "wavcaps", "audioset"))
    parts = {"train": ["train_clip1", "train_clip2", "train_gone3"], "val": ["valid_clip1"], "test": TEST_CLIPS}
    for number, (part, clips) in enumerate(parts.items(), start=1):
        write_tones(audiocaps / "audio" / part, [f"Y{clip}.wav" for clip in clips if "gone" not in clip], number)
        rows = [f"{number}{index}{again},{clip},30,a tone\n" for index, clip in enumerate(clips) for again in (1, 2)]
        (audiocaps / f"{part}.csv").write_text("audiocap_id,youtube_id,start_time,caption\n" + "".join(rows))
    entries = {
        "FreeSound/fsd": ["100", "200"],
        "BBC_Sound_Effects/bbc": ["NHU05093027"],
        "SoundBible/sb": ["200"],
        "AudioSet_SL/as": ["Ytrain_clip1.wav", f"Y{TEST_CLIPS[0]}.wav", "Yonly_here_1.wav"],
    }
    for number, (name, ids) in enumerate(entries.items(), start=10):
        folder = wavcaps / "json_files" / name
        folder.parent.mkdir(parents=True)
        data = [{"id": each, "caption": "A tone.", "duration": 1.0} for each in ids]
        folder.with_name(f"{folder.name}_final.json").write_text(
            json.dumps({"num_captions_per_audio": 1, "data": data})
        )
        stems = [each.removesuffix(".wav") for each in ids]
        write_tones(wavcaps / "audio" / folder.parent.name, [f"{each}.flac" for each in stems], number)
    blacklist = wavcaps / "json_files" / "blacklist" / "blacklist_exclude_all_ac.json"
    blacklist.parent.mkdir()
    blacklist.write_text(json.dumps({"AudioSet": ["Ytrain_clip1.wav"], "FreeSound": ["200"]}))
    write_tones(audioset / "audio", [f"Y{clip}.wav" for clip in ("balanced_11", "unbalanc_11", TEST_CLIPS[1])], 20)
    header = "# Segments csv\n# num_ytids=1\n# YTID, start_seconds, end_seconds, positive_labels\n"
    rows = {"balanced": ["balanced_11"], "unbalanced": ["unbalanc_11", "not_on_disk", TEST_CLIPS[1]]}
    for name, clips in rows.items():
        lines = [f'{clip}, 30.000, 40.000, "/m/09x0r,/m/04rlf"\n' for clip in clips]
        (audioset / f"{name}_train_segments.csv").write_text(header + "".join(lines))
    labels = 'index,mid,display_name\n0,/m/09x0r,"Speech"\n137,/m/04rlf,"Music"\n'
    (audioset / "class_labels_indices.csv").write_text(labels)
    Path("lists").mkdir()
    rows = [f"{clip}_30,tone {index}\n" for index, clip in enumerate(TEST_CLIPS)]
    Path("lists/tango_886.csv").write_text("id,caption\n" + "".join(rows))


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
