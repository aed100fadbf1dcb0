"""Folder, AudioCaps, WavCaps and AudioSet: file names are found, missing files counted, bad tables named."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from impact_pl.audio import save_audio
from impact_pl.cli import data
from impact_pl.data.manifest import read_manifest
from impact_pl.datasets import audiocaps, audioset, folder, wavcaps
from impact_pl.datasets.base import audio_files, draw_of, split_of


def make_audio(folder, *names, seconds=0.1):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_audio(folder / name, torch.zeros(int(seconds * 1000)), 1000)


def run(module, *arguments):
    data.main([module.__name__.rpartition(".")[2], *(str(argument) for argument in arguments)])


def fails(capsys, module, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        run(module, *arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    return said


def test_folder_without_captions(tmp_path):
    make_audio(tmp_path / "sounds", "b.wav", "sub/a.flac")
    (tmp_path / "sounds" / "notes.txt").write_text("not audio")
    run(folder, "--audio", tmp_path / "sounds", "--out", tmp_path / "m.jsonl", "--valid-share", 0)
    records = read_manifest(tmp_path / "m.jsonl")
    assert [record.id for record in records] == ["b", "sub/a"]
    assert all(record.caption is None and record.split == "train" for record in records)
    assert '"sounds/b.wav"' in (tmp_path / "m.jsonl").read_text()  # relative: the manifest moves with its sounds


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_folder_with_captions(tmp_path, capsys, kind):
    make_audio(tmp_path / "sounds", "a.wav", "b.wav", "unnamed.wav")
    captions = tmp_path / f"captions.{kind}"
    if kind == "csv":
        captions.write_text('file,caption,split\na.wav,"a dog, barking",valid\ngone.wav,x,train\na.wav,second,valid\n')
    else:
        rows = [("a.wav", "a dog, barking"), ("gone.wav", "x"), ("a.wav", "second")]
        lines = [json.dumps({"file": file, "caption": text, "split": "valid"}) for file, text in rows]
        captions.write_text("\n".join(lines))
    run(folder, "--audio", tmp_path / "sounds", "--captions", captions, "--out", tmp_path / "elsewhere" / "m.jsonl")
    first, second = read_manifest(tmp_path / "elsewhere" / "m.jsonl")
    assert (first.id, first.caption, first.split) == ("a", "a dog, barking", "valid")
    assert (second.id, second.caption, second.path) == ("a#2", "second", first.path)
    said = capsys.readouterr().out
    assert "1 of 3 listed clips have no file" in said
    assert (tmp_path / "elsewhere" / "m.missing.txt").read_text() == "gone.wav\n"
    assert "gone.wav" in said


def test_folder_mistakes(tmp_path, capsys):
    out = ("--out", tmp_path / "m.jsonl")
    assert "no such folder" in fails(capsys, folder, "--audio", tmp_path / "gone", *out)
    (tmp_path / "empty").mkdir()
    assert "holds no audio files" in fails(capsys, folder, "--audio", tmp_path / "empty", *out)
    make_audio(tmp_path / "s", "a.wav")
    captions = tmp_path / "c.csv"
    given = ("--audio", tmp_path / "s", "--captions", captions, *out)
    assert "no such file" in fails(capsys, folder, *given)
    captions.write_text("")
    assert "c.csv: is empty" in fails(capsys, folder, *given)
    captions.write_text("file,caption\n")
    assert "has a header but no rows" in fails(capsys, folder, *given)
    captions.write_text("name,caption\na.wav,x\n")
    assert "line 1: no column 'file'; its header, split at ',', is name, caption" in fails(capsys, folder, *given)
    captions.write_text("file,caption\nb.wav,x\n")
    assert "none of the 1 listed clips has a file" in fails(capsys, folder, *given)
    captions.write_text("file,caption,start\na.wav,x,soon\n")
    assert "line 2: key 'start': input should be a valid number" in fails(capsys, folder, *given)
    captions.write_text("file,caption\na.wav\n")
    assert "line 2: 1 cells, but the header has 2" in fails(capsys, folder, *given)
    captions.write_text("file,caption\na.wav,a dog, then rain\n")
    assert "line 2: 3 cells, but the header has 2; a cell that holds ',' needs quotes" in fails(capsys, folder, *given)
    captions.write_text("file,caption,split\na.wav,x,dev\n")
    assert "got 'dev'" in fails(capsys, folder, *given)
    assert not (tmp_path / "m.jsonl").exists()
    other = tmp_path / "c.jsonl"
    other.write_text('{"file": "a.wav"}\n')
    given = ("--audio", tmp_path / "s", "--captions", other, *out)
    assert "line 1: key 'caption' is missing" in fails(capsys, folder, *given)


def test_a_name_with_spaces_is_found_as_it_is_written(tmp_path):
    make_audio(tmp_path / "s", " a.wav", "b.wav")
    (tmp_path / "c.csv").write_text("file, caption\n a.wav, rain\n b.wav, wind\n")
    run(folder, "--audio", tmp_path / "s", "--captions", tmp_path / "c.csv", "--out", tmp_path / "m.jsonl")
    records = read_manifest(tmp_path / "m.jsonl")
    assert [(Path(record.path).name, record.caption) for record in records] == [(" a.wav", "rain"), ("b.wav", "wind")]


def test_a_caption_with_a_line_separator_comes_back(tmp_path):
    make_audio(tmp_path / "s", "a.wav")
    (tmp_path / "c.csv").write_text("file,caption\na.wav,rain\u2028and\u0085wind\n", encoding="utf-8")
    run(folder, "--audio", tmp_path / "s", "--captions", tmp_path / "c.csv", "--out", tmp_path / "m.jsonl")
    assert read_manifest(tmp_path / "m.jsonl")[0].caption == "rain\u2028and\u0085wind"


def test_links_are_followed_and_circles_end(tmp_path, caplog):
    make_audio(tmp_path / "elsewhere", "a.wav", "deep/b.wav")
    make_audio(tmp_path / "s", "c.wav")
    (tmp_path / "s" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "s" / "circle").symlink_to(tmp_path / "s")
    for name in ("x.m4a", "y.m4a", "z.webm", "notes.txt", "README"):
        (tmp_path / "s" / name).touch()
    names = [path.relative_to(tmp_path / "s").as_posix() for path in audio_files(tmp_path / "s")]
    assert names == ["c.wav", "linked/a.wav", "linked/deep/b.wav"]
    assert "5 files are skipped (2 .m4a, 1 .txt, 1 .webm, 1 no suffix); convert" in caplog.text
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "x.m4a").touch()
    with pytest.raises(ValueError, match=r"holds no audio files .* but 1 \.m4a; convert .*ffmpeg"):
        audio_files(tmp_path / "m")


def test_one_source_is_split_by_file_and_one_sound_is_trained_on(tmp_path, caplog):
    names = [f"{i}.wav" for i in range(40)]
    make_audio(tmp_path, *names)
    rows = [{"file": name, "caption": None, "source": "my recorder"} for name in names]
    splits = Counter(record.split for record in folder.collect(tmp_path, rows, 0.1, "").records)
    assert 1 <= splits["valid"] <= 10
    assert splits["train"] == 40 - splits["valid"]
    assert "all clips have the source 'my recorder'" in caplog.text
    for share in (0.01, 0.99):
        assert [record.split for record in folder.collect(tmp_path, rows[:1], share, "").records] == ["train"]
        assert {record.split for record in folder.collect(tmp_path, rows[:2], share, "").records} == {"train", "valid"}


def test_the_split_depends_on_the_name_alone():
    names = [f"clip {i}" for i in range(2000)]
    share = sum(split_of(name, 0.1) == "valid" for name in names) / len(names)
    assert 0.07 < share < 0.13
    assert {split_of(name, 0.1) for name in names if split_of(name, 0.05) == "valid"} == {"valid"}


def test_audiocaps_names(tmp_path, capsys):
    make_audio(tmp_path / "a", "id1.wav", "sub/Yid2.flac", "id3_30.wav", "Yid4_40.000_50.000.wav")
    make_audio(tmp_path / "a", "id5.wav", seconds=60)
    rows = "".join(f"{i},id{i},{i}0,caption {i}\n" for i in range(1, 7))
    (tmp_path / "t.csv").write_text("audiocap_id,youtube_id,start_time,caption\n" + rows)
    arguments = ("--csv", tmp_path / "t.csv", "--audio", tmp_path / "a", "--split", "test")
    run(audiocaps, *arguments, "--out", tmp_path / "m.jsonl")
    records = read_manifest(tmp_path / "m.jsonl")
    assert [record.id for record in records] == [f"audiocaps/{i}" for i in range(1, 6)]
    assert [record.split for record in records] == ["test"] * 5
    assert [(record.start, record.duration) for record in records] == [(0.0, None)] * 4 + [(50.0, 10.0)]
    assert records[2].caption == "caption 3"
    assert "id6" in capsys.readouterr().out


def test_wavcaps_ids(tmp_path):
    make_audio(tmp_path / "a", "1234.flac", "Yabc.wav")
    entries = [
        {"id": "1234", "caption": "Rain falls.", "duration": 3.2},
        {"id": "Yabc.wav", "caption": "A dog barks.", "duration": 10},
        {"id": "5", "caption": "x", "duration": 1},
    ]
    (tmp_path / "part.json").write_text(json.dumps({"num_captions_per_audio": 1, "data": entries}))
    run(wavcaps, "--json", tmp_path / "part.json", "--audio", tmp_path / "a", "--out", tmp_path / "m.jsonl")
    records = read_manifest(tmp_path / "m.jsonl")
    assert [record.id for record in records] == ["wavcaps/part/1234", "wavcaps/part/Yabc"]
    assert [record.caption for record in records] == ["Rain falls.", "A dog barks."]


@pytest.mark.parametrize(("content", "message"), [("", "is empty"), ("{", "not JSON"), ('{"data": []}', "least one")])
def test_wavcaps_mistakes(tmp_path, capsys, content, message):
    make_audio(tmp_path / "a", "1.wav")
    (tmp_path / "p.json").write_text(content)
    arguments = ("--json", tmp_path / "p.json", "--audio", tmp_path / "a", "--out", tmp_path / "m.jsonl")
    assert message in fails(capsys, wavcaps, *arguments)


def test_audioset_segments_and_labels(tmp_path):
    make_audio(tmp_path / "a", "Yone.wav", "two_30.000_36.000.wav")
    rows = '# Segments\n# YTID, start_seconds, end_seconds, positive_labels\none, 0.000, 10.000, "/m/1,/m/2"\n'
    (tmp_path / "s.csv").write_text(rows + 'two, 30.000, 36.000, "/m/2"\n')
    (tmp_path / "labels.csv").write_text('index,mid,display_name\n0,/m/1,"Speech"\n1,/m/2,"Dog, bark"\n')
    arguments = ("--csv", tmp_path / "s.csv", "--labels", tmp_path / "labels.csv", "--audio", tmp_path / "a")
    run(audioset, *arguments, "--out", tmp_path / "m.jsonl")
    one, two = read_manifest(tmp_path / "m.jsonl")
    assert (one.source, one.labels, one.caption) == ("youtube/one", ("Speech", "Dog, bark"), None)
    assert (two.labels, two.start, two.duration) == (("Dog, bark",), 0.0, None)
    (tmp_path / "s.csv").write_text("one, 5, 3, /m/1\n")
    with pytest.raises(ValueError, match="line 1: ends at 3 s, not after its start at 5 s"):
        audioset.read_segments(tmp_path / "s.csv")


@pytest.mark.parametrize("module", ["folder", "audiocaps", "wavcaps", "audioset", "clotho", "esc50", "fsd50k", "join"])
def test_every_command_explains_itself(module, capsys):
    with pytest.raises(SystemExit) as stop:
        data.main([module, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert f"usage: impact data {module}" in said
    assert f"example: impact data {module}" in said


def test_a_small_folder_keeps_one_source_for_validation(tmp_path):
    """Of these twelve none is drawn for ``valid``: the one nearest to it goes there, with all that comes from it."""
    names = [name for name in (f"clip{i}.wav" for i in range(60)) if split_of(name, 0.1) == "train"][:12]
    for name in names:
        (tmp_path / name).touch()
    rows = [{"file": name, "caption": f"take {take}"} for name in names for take in (1, 2)]
    records = folder.collect(tmp_path, rows, 0.1, "").records
    nearest = min(names, key=draw_of)
    assert [record.source for record in records if record.split == "valid"] == [nearest, nearest]
    assert {record.split for record in folder.collect(tmp_path, rows, 0.0, "").records} == {"train"}
