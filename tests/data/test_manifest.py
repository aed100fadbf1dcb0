"""Manifests: a round trip, and every mistake is named by line and key."""

import pytest

from impact_pl.data.manifest import Record, file_stem, file_stems, read_manifest, write_manifest


def test_round_trip_makes_paths_absolute(tmp_path):
    records = [
        Record("a", "audio/a.wav", caption="a dog barks", licence="CC0", source="pack/dog"),
        Record("b", "/elsewhere/b.flac", start=1.5, duration=2.0, split="valid"),
    ]
    write_manifest(tmp_path / "sub" / "manifest.jsonl", records)
    first, second = read_manifest(tmp_path / "sub" / "manifest.jsonl")
    assert first == Record(
        "a", str(tmp_path / "sub/audio/a.wav"), caption="a dog barks", licence="CC0", source="pack/dog"
    )
    assert second == records[1]


def test_a_blank_caption_is_no_caption(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"id": "a", "path": "a.wav", "caption": "  "}\n\n')
    assert read_manifest(tmp_path / "m.jsonl")[0].caption is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2: not JSON"),
        ("[1]", r"line 2: expected a JSON object, got \[1\]"),
        ('{"path": "a"}', r"line 2: key 'id' is missing"),
        ('{"id": "b", "path": 3}', r"line 2: key 'path'"),
        ('{"id": "b", "path": "a", "captoin": "x"}', r"line 2: unknown key 'captoin'; the keys are id, path"),
        ('{"id": "b", "path": "a", "caption": 3}', r"line 2: key 'caption'"),
        ('{"id": "b", "path": "a", "start": -1}', r"line 2: key 'start'"),
        ('{"id": "b", "path": "a", "start": null}', r"line 2: key 'start'"),
        ('{"id": "b", "path": "a", "duration": NaN}', r"line 2: key 'duration'"),
        ('{"id": "b", "path": "a", "duration": 0}', r"line 2: key 'duration': input should be greater than 0"),
        ('{"id": "b", "path": "a", "duration": true}', r"line 2: key 'duration'"),
        ('{"id": "b", "path": "a", "split": "dev"}', r"line 2: key 'split': .*train.valid.test.* got 'dev'"),
        ('{"id": "b", "path": "a", "split": []}', r"line 2: key 'split'"),
        ('{"id": "a", "path": "a"}', r"line 2: id 'a' was already used in line 1"),
    ],
)
def test_mistakes_name_line_and_key(tmp_path, line, message):
    (tmp_path / "m.jsonl").write_text('{"id": "a", "path": "a.wav"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / "m.jsonl")


def test_an_id_is_written_once(tmp_path):
    records = [Record("a", "a.wav"), Record("b", "b.wav"), Record("a", "c.wav")]
    with pytest.raises(ValueError, match="1 ids are used more than once, first 'a'"):
        write_manifest(tmp_path / "m.jsonl", records)
    assert not (tmp_path / "m.jsonl").exists()


def test_missing_empty_and_binary_manifests(tmp_path):
    with pytest.raises(ValueError, match="no such manifest"):
        read_manifest(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        read_manifest(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        read_manifest(tmp_path / "m.jsonl")


def test_file_names_of_long_ids_and_of_ids_that_differ_by_case():
    """A file system takes 255 bytes, and some take capitals for small letters."""
    long = ["é" * 200 + "a", "é" * 200 + "b"]
    names = file_stems(long)
    assert len(set(names)) == 2
    assert all(len(name.encode()) <= 180 for name in names)
    assert file_stem(long[0]) == names[0]
    assert file_stem("x" * 180) == "x" * 180
    with pytest.raises(ValueError, match="ids 'Dog' and 'dog' give the same file name"):
        file_stems(["Dog", "cat", "dog"])
