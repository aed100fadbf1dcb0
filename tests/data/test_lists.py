"""Test lists in the formats of their publishers, and sounds matched to them by clip."""

import re

import pytest

from impact_pl.cli.generate import build_parser
from impact_pl.cli.jobs import plan_jobs
from impact_pl.data.lists import KNOWN, ClipList, clip_id, clip_of, read_clip_list, restrict
from impact_pl.data.manifest import Record
from impact_pl.evaluation.sounds import list_sounds

CSV = 'id,caption\nY7fmOlUlwoNg,A machine is clicking\nY6BJ455B1aAs,"A missile launching, then metal"\n'
TSV = "id\tcaption\nY7fmOlUlwoNg\tA machine is clicking\nY6BJ455B1aAs\tA missile launching, then metal\n"
TANGO = 'id,caption\n7fmOlUlwoNg_20,A machine is clicking\n6BJ455B1aAs_0,"A missile launching, then metal"\n'
AUDIOCAPS = (
    "audiocap_id,youtube_id,start_time,caption\n103549,7fmOlUlwoNg,20,Constant rattling\n"
    "103548,6BJ455B1aAs,0,A rocket flies by\n104001,7fmOlUlwoNg,20,A machine is clicking\n"
)


@pytest.mark.parametrize(
    "name",
    [
        "Y7fmOlUlwoNg",
        "7fmOlUlwoNg_20",
        "7fmOlUlwoNg.wav",
        "Y7fmOlUlwoNg_20_30.flac",
        "x/Y7fmOlUlwoNg_20.000_30.000.wav",
    ],
)
def test_one_clip_under_its_many_names(name):
    assert clip_id(name) == "7fmOlUlwoNg"


@pytest.mark.parametrize("name", ["Yk274Wr5iIE", "_xylo5_IiaM", "ObWjGBJF_94", "-NsC63dA01g"])
def test_ids_that_look_like_prefixes_and_suffixes_stay_whole(name):
    assert clip_id(name) == clip_id(f"Y{name}") == clip_id(f"{name}_130") == clip_id(f"Y{name}_0_10.wav") == name


@pytest.mark.parametrize("name", ["s01", "0003_a_dog_barks", "1-100032-A-0"])
def test_other_names_stay(name):
    assert clip_id(name) == clip_id(f"{name}.wav") == name


NAMES = ["noisy stuff bag.wav", "evaluation/noisy stuff bag.wav", "Rain (2).WAV", "a.b.flac", "dog.wav.wav", "ß" * 200]


@pytest.mark.parametrize("name", NAMES)
def test_a_list_matches_the_files_that_generation_names_by_it(tmp_path, name):
    (tmp_path / "list.csv").write_text(f'id,caption\n"{name}",a sound\n7fmOlUlwoNg_20,a machine\n')
    args = build_parser().parse_args(
        ["--model", "m", "--captions-file", str(tmp_path / "list.csv"), "-o", str(tmp_path)]
    )
    files = [job.file for job in plan_jobs(args)]
    assert not files[0].stem.lower().endswith((".wav", ".flac"))
    assert files[1].stem == "7fmOlUlwoNg_20"  # the list's own name
    for file in files:
        file.touch()
    clips = read_clip_list(tmp_path / "list.csv")
    assert list(restrict(list_sounds(tmp_path), clips, "generated", exactly=True)) == sorted(clips.captions)


def test_a_manifest_of_clotho_matches_a_list_of_its_file_names():
    records = [
        Record(f"clotho/noisy stuff bag{rest}", "/a.wav", source="clotho/noisy stuff bag") for rest in ("", "#2", "#3")
    ]
    sounds = {f"{number}": record for number, record in enumerate(records)}
    clips = ClipList({clip_id("noisy stuff bag.wav"): "x"})
    assert list(restrict(sounds, clips, "reference", exactly=True)) == ["noisy_stuff_bag"]


@pytest.mark.parametrize(("suffix", "text"), [("csv", CSV), ("tsv", TSV), ("csv", TANGO)])
def test_formats(tmp_path, suffix, text):
    (tmp_path / f"list.{suffix}").write_text(text)
    clips = read_clip_list(tmp_path / f"list.{suffix}")
    assert clips.captions == {
        "7fmOlUlwoNg": "A machine is clicking",
        "6BJ455B1aAs": "A missile launching, then metal",
    }
    assert clips.name == "custom (2 clips)"
    reordered = ClipList(dict(reversed(clips.captions.items())))
    assert reordered.checksum == clips.checksum


def test_one_caption_of_several_is_always_the_same(tmp_path):
    (tmp_path / "test.csv").write_text(AUDIOCAPS)
    clips = read_clip_list(tmp_path / "test.csv")
    assert list(clips.captions) == ["7fmOlUlwoNg", "6BJ455B1aAs"]
    assert clips.captions["7fmOlUlwoNg"] in ("Constant rattling", "A machine is clicking")
    lines = AUDIOCAPS.splitlines(keepends=True)
    (tmp_path / "test.csv").write_text("".join([lines[0], lines[2], lines[1], lines[3]]))
    assert read_clip_list(tmp_path / "test.csv").captions == clips.captions


def test_the_checksum_of_a_list_is_a_published_fact():
    """KNOWN holds what this function gave for the published files: sha256 of the sorted ids, one a line."""
    assert ClipList({"7fmOlUlwoNg": "x", "6BJ455B1aAs": "y"}).checksum == "44e5441c4ece87a3"


def test_a_known_list_is_named_by_its_clips(monkeypatch):
    clips = ClipList({"7fmOlUlwoNg": "x"})
    monkeypatch.setitem(KNOWN, clips.checksum, "famous_1")
    assert ClipList({"7fmOlUlwoNg": "another caption"}).name == "famous_1"
    assert ClipList({"6BJ455B1aAs": "x"}).name == "custom (1 clips)"
    published = {"audioldm_eval_964", "fdaudio_957", "tango_886", "stable_audio_881", "audiocaps_975"}
    assert set(KNOWN.values()) == published | {"famous_1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("file,caption\na,b\n", "columns are file, caption"),
        ("id,caption\n", "no rows"),
        ("id,caption\na,\n", "line 2: a clip and its caption"),
        ("id,caption\nY7fmOlUlwoNg,A missile, then metal\n", "line 2: 3 cells, but the header has 2"),
        (CSV + "7fmOlUlwoNg_20,again\n", "line 4: the clip '7fmOlUlwoNg_20' stands twice"),
    ],
)
def test_bad_lists_are_named(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_clip_list(tmp_path / "list.csv")


def test_missing_and_extra_sounds_are_errors():
    clips = ClipList({"7fmOlUlwoNg": "x", "6BJ455B1aAs": "y"})
    sounds = {name: Record(name, f"/{name}.wav") for name in ("Y7fmOlUlwoNg", "6BJ455B1aAs_0", "other")}
    assert list(restrict(sounds, clips, "reference", exactly=False)) == ["6BJ455B1aAs", "7fmOlUlwoNg"]
    with pytest.raises(ValueError, match=r"generated does not match .* 1 sounds are not in the list \(other\)"):
        restrict(sounds, clips, "generated", exactly=True)
    del sounds["6BJ455B1aAs_0"]
    with pytest.raises(ValueError, match=r"1 of 2 clips have no sound \(6BJ455B1aAs\)"):
        restrict(sounds, clips, "reference", exactly=False)
    sounds["7fmOlUlwoNg_20"] = Record("7fmOlUlwoNg_20", "/another.wav")
    with pytest.raises(ValueError, match="7fmOlUlwoNg has two sounds"):
        restrict(sounds, clips, "reference", exactly=False)


def test_records_of_audiocaps_are_known_by_their_clip():
    records = [Record(f"audiocaps/{i}", "/a.wav", start=20.0, source="youtube/7fmOlUlwoNg") for i in (103549, 104001)]
    assert {clip_of(record.id, record) for record in records} == {"7fmOlUlwoNg"}
    sounds = {record.id: record for record in records}
    assert len(restrict(sounds, ClipList({"7fmOlUlwoNg": "x"}), "reference", exactly=True)) == 1
