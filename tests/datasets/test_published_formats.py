"""WavCaps' blacklists, AudioSet's ontology, Clotho, ESC-50 and FSD50K, in the formats that they publish."""

import json

import pytest
import torch

from impact_pl.audio import save_audio
from impact_pl.cli import data
from impact_pl.data.manifest import Record, read_manifest, write_manifest
from impact_pl.datasets import audioset, clotho, esc50, fsd50k, join, wavcaps
from impact_pl.datasets.base import names_of

TEST_LIST = "id,caption\nYvfY_TJq7n_U,Rustling occurs\nYtdWhHV3X25Q,An audience gives applause\n"


def make_audio(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_audio(folder / name, torch.zeros(100), 1000)


def made(module, tmp_path, *arguments) -> list[Record]:
    arguments = (module.__name__.rpartition(".")[2], *arguments, "--out", tmp_path / "m.jsonl")
    data.main([str(argument) for argument in arguments])
    return read_manifest(tmp_path / "m.jsonl")


def refused(capsys, module, tmp_path, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        made(module, tmp_path, *arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def parts(tmp_path):
    """Two parts of WavCaps as published; SoundBible's clip 201 is another than FreeSound's."""
    json_files = tmp_path / "json_files"
    entries = {
        "FreeSound/fsd_final": [{"id": "201"}, {"id": "300"}],
        "SoundBible/sb_final": [{"id": "201"}],
        "AudioSet_SL/as_final": [{"id": "YvfY_TJq7n_U.wav"}, {"id": "Y--0w1YA1Hm4.wav"}, {"id": "YtdWhHV3X25Q.wav"}],
    }
    for name, listed in entries.items():
        (json_files / name).parent.mkdir(parents=True)
        listed = [{"caption": f"{name} {entry['id']}", "duration": 30.5, **entry} for entry in listed]
        (json_files / f"{name}.json").write_text(json.dumps({"num_captions_per_audio": 1, "data": listed}))
    blacklist = {"AudioSet": ["YvfY_TJq7n_U.wav"], "FreeSound": ["201", "376"]}
    (json_files / "blacklist_exclude_all_ac.json").write_text(json.dumps(blacklist))
    make_audio(tmp_path / "audio", "FreeSound_flac/201.flac", "FreeSound_flac/300.flac", "SoundBible_flac/201.flac")
    make_audio(tmp_path / "audio", "AudioSet_SL_flac/YvfY_TJq7n_U.flac", "AudioSet_SL_flac/YtdWhHV3X25Q.flac")
    return sorted(json_files.glob("*/*.json"))


def test_wavcaps_leaves_out_what_its_blacklists_name(tmp_path, parts, capsys):
    arguments = ("--json", *parts, "--audio", tmp_path / "audio")
    assert len(made(wavcaps, tmp_path, *arguments)) == 5
    (tmp_path / "audio" / "FreeSound_flac" / "201.flac").rename(tmp_path / "gone.flac")
    assert len(made(wavcaps, tmp_path, *arguments)) == 4  # SoundBible's 201 does not stand in for FreeSound's
    (tmp_path / "gone.flac").rename(tmp_path / "audio" / "201.flac")  # a folder that names no source serves all
    blacklist = parts[0].parent.parent / "blacklist_exclude_all_ac.json"
    records = made(wavcaps, tmp_path, *arguments, "--exclude", blacklist)
    assert [record.id for record in records] == [
        "wavcaps/as_final/YtdWhHV3X25Q",
        "wavcaps/fsd_final/300",
        "wavcaps/sb_final/201",  # SoundBible's, which the list of FreeSound's ids does not mean
    ]
    assert records[2].path.endswith("SoundBible_flac/201.flac")
    said = capsys.readouterr().out
    assert "2 clips were excluded" in said
    assert (tmp_path / "m.missing.txt").read_text() == "Y--0w1YA1Hm4.wav\n"

    (tmp_path / "test.csv").write_text(TEST_LIST)
    records = made(wavcaps, tmp_path, *arguments, "--exclude", blacklist, tmp_path / "test.csv", "--seconds", 10)
    assert [record.id for record in records] == ["wavcaps/fsd_final/300", "wavcaps/sb_final/201"]
    assert [record.duration for record in records] == [10, 10]


def test_wavcaps_mistakes(tmp_path, parts, capsys):
    arguments = ("--json", *parts, "--audio", tmp_path / "audio")
    bad = tmp_path / "bad.json"
    bad.write_text('{"VGGSound": ["1"]}')
    assert "expected WavCaps' blacklist" in refused(capsys, wavcaps, tmp_path, *arguments, "--exclude", bad)
    bad.write_text('{"FreeSound": 5}')
    assert "expected WavCaps' blacklist" in refused(capsys, wavcaps, tmp_path, *arguments, "--exclude", bad)
    bad.write_text(json.dumps({"FreeSound": ["201", "300"]}))
    alone = ("--json", *(part for part in parts if "FreeSound" in str(part)), "--audio", tmp_path / "audio")
    said = refused(capsys, wavcaps, tmp_path, *alone, "--exclude", bad)
    assert "no clip is left: --exclude names 2 of them, 0 others have no file" in said
    bad.write_text('{"FreeSound": ["1"]}')
    nameless = tmp_path / "part.json"
    nameless.write_text(parts[0].read_text())
    arguments = ("--json", nameless, "--audio", tmp_path / "audio", "--exclude", bad)
    assert "needs to know its source" in refused(capsys, wavcaps, tmp_path, *arguments)


def test_a_manifest_joined_with_itself_is_refused(tmp_path, capsys):
    make_audio(tmp_path, "a.wav")
    write_manifest(tmp_path / "one.jsonl", [Record("a", "a.wav")])
    said = refused(capsys, join, tmp_path, "--manifests", tmp_path / "one.jsonl", tmp_path / "one.jsonl")
    assert "1 ids are used more than once, first 'a'" in said


def test_audioset_keeps_the_ontologys_labels(tmp_path):
    make_audio(tmp_path / "a", "Y--0w1YA1Hm4.wav", "YvfY_TJq7n_U.wav", "YtdWhHV3X25Q.wav")
    header = (
        "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=3\n# YTID, start_seconds, end_seconds, labels\n"
    )
    (tmp_path / "balanced.csv").write_text(header + 'vfY_TJq7n_U, 130.000, 140.000, "/m/02rhddq"\n')
    rows = '--0w1YA1Hm4, 30.000, 40.000, "/m/09x0r,/t/dd00088"\ntdWhHV3X25Q, 60.000, 70.000, "/m/09x0r"\n'
    (tmp_path / "unbalanced.csv").write_text(header + rows)
    ontology = [{"id": "/m/09x0r", "name": "Speech", "child_ids": []}, {"id": "/t/dd00088", "name": "Gush"}]
    (tmp_path / "ontology.json").write_text(json.dumps(ontology))
    (tmp_path / "test.csv").write_text("audiocap_id,youtube_id,start_time,caption\n1,vfY_TJq7n_U,130,Rustling\n")
    csvs = ("--csv", tmp_path / "balanced.csv", tmp_path / "unbalanced.csv", "--audio", tmp_path / "a")
    assert [len(record.labels) for record in made(audioset, tmp_path, *csvs)] == [1, 2, 1]  # mids
    with_labels = ("--labels", tmp_path / "ontology.json", "--exclude", tmp_path / "test.csv")
    first, second = made(audioset, tmp_path, *csvs, *with_labels)
    assert (first.id, first.labels, first.source) == (
        "audioset/--0w1YA1Hm4_30",
        ("Speech", "Gush"),
        "youtube/--0w1YA1Hm4",
    )
    assert second.labels == ("Speech",)


def test_clotho_captions(tmp_path):
    name = "noisy stuff groceries paper bag cookie metallic case cling clang.wav"
    make_audio(tmp_path / "a", name)
    captions = [f'"caption {number}, of five"' for number in range(1, 6)]
    header = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
    (tmp_path / "c.csv").write_text(header + ",".join([name, *captions]) + "\n" + "gone.wav,a,b,c,d,e\n")
    arguments = ("--csv", tmp_path / "c.csv", "--audio", tmp_path / "a", "--split", "valid")
    records = made(clotho, tmp_path, *arguments)
    assert [record.caption for record in records] == [f"caption {number}, of five" for number in range(1, 6)]
    assert (tmp_path / "m.missing.txt").read_text() == "gone.wav\n"
    (one,) = made(clotho, tmp_path, *arguments, "--captions", 1)
    assert one.caption in {record.caption for record in records}
    assert (one.id, one.split) == (f"clotho/{name.removesuffix('.wav')}", "valid")


def test_esc50_folds_are_splits(tmp_path, capsys):
    names = [f"{fold}-100032-A-0.wav" for fold in range(1, 6)]
    make_audio(tmp_path / "a", *names)
    rows = [f"{name},{fold},20,crying_baby,{fold < 5},100032,A" for fold, name in enumerate(names, start=1)]
    header = "filename,fold,target,category,esc10,src_file,take\n"
    (tmp_path / "esc50.csv").write_text(header + "\n".join(rows))
    arguments = ("--csv", tmp_path / "esc50.csv", "--audio", tmp_path / "a")
    records = made(esc50, tmp_path, *arguments, "--valid-fold", 1, "--test-fold", 2)
    assert [record.split for record in records] == ["valid", "test", "train", "train", "train"]
    assert all(record.labels == ("crying_baby",) and record.caption is None for record in records)
    records = made(esc50, tmp_path, *arguments, "--esc10", "--label-captions")
    assert [record.caption for record in records] == ["crying baby"] * 4
    assert "both 4" in refused(capsys, esc50, tmp_path, *arguments, "--test-fold", 4)


def test_fsd50k_labels_and_splits(tmp_path, capsys):
    make_audio(
        tmp_path / "a", "FSD50K.dev_audio/64760.wav", "FSD50K.dev_audio/16399.wav", "FSD50K.eval_audio/37199.wav"
    )
    dev = 'fname,labels,mids,split\n64760,"Electric_guitar,Guitar",/m/02sgy,train\n16399,Guitar,/m/0342h,val\n'
    (tmp_path / "dev.csv").write_text(dev)
    (tmp_path / "eval.csv").write_text("fname,labels,mids\n37199,Guitar,/m/0342h\n1,Gull,/m/01\n")
    (tmp_path / "info.json").write_text('{"64760": {"title": "x", "license": "http://creativecommons.org/zero/1.0/"}}')
    csvs = ("--csv", tmp_path / "dev.csv", tmp_path / "eval.csv", "--audio", tmp_path / "a")
    records = made(fsd50k, tmp_path, *csvs, "--info", tmp_path / "info.json", "--label-captions")
    assert [record.split for record in records] == ["train", "valid", "test"]
    assert records[0].labels == ("Electric_guitar", "Guitar")
    assert records[0].caption == "electric guitar, guitar"
    assert [record.licence for record in records] == ["http://creativecommons.org/zero/1.0/", "", ""]
    assert (tmp_path / "m.missing.txt").read_text() == "1\n"
    (tmp_path / "dev.csv").write_text(dev.replace("val", "dev"))
    assert "split 'dev' is neither train nor val" in refused(capsys, fsd50k, tmp_path, *csvs)


def test_labels_survive_the_manifest(tmp_path):
    write_manifest(tmp_path / "m.jsonl", [Record("a", "/a.wav", labels=("Dog, bark",)), Record("b", "/b.wav")])
    assert [record.labels for record in read_manifest(tmp_path / "m.jsonl")] == [("Dog, bark",), ()]
    assert "labels" not in (tmp_path / "m.jsonl").read_text().splitlines()[1]
    for bad in ('"Dog"', "[1]", r'["\ud800"]'):
        (tmp_path / "m.jsonl").write_text(f'{{"id": "a", "path": "/a.wav", "labels": {bad}}}\n')
        with pytest.raises(ValueError, match="labels"):
            read_manifest(tmp_path / "m.jsonl")


def test_names_of_labels():
    assert names_of(["Acoustic_guitar", "Guitar"]) == "acoustic guitar, guitar"
    assert names_of([]) is None
