"""The large corpus: its list is sound, and one command makes every file of it out of packages and ESC-50's folder."""

import collections
import csv
import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
import soundfile

from data_prep.corpus import builtin, corpus
from data_prep.corpus.captions import phrasings
from data_prep.corpus.esc10_phrasings import TRAIN
from data_prep.corpus.variants import RATES
from impact_pl.audio import audio_seconds
from impact_pl.data.manifest import read_manifest

RATE = 16_000


def test_the_lists_are_sound_together():
    packages, clips = builtin.read_corpora(corpus.CORPORA)
    assert corpus.CORPORA[1].stat().st_size < 1_500_000
    names = [package["name"] for package in packages]
    assert len(set(names)) == len(names)
    assert all(package["licence"] and package["homepage"] for package in packages)
    for field in ("id", "sha256", "file"):
        values = [getattr(clip, field).casefold() for clip in clips]
        assert len(set(values)) == len(values), field
    sources = collections.defaultdict(set)
    for clip in clips:
        assert clip.package in names
        assert clip.licence
        assert clip.caption is None or clip.caption == clip.caption.strip() != ""
        assert 0.2 <= clip.seconds <= 61, clip.id
        sources[clip.source].add(clip.split)
    assert all(len(found) == 1 for found in sources.values())
    share = sum(clip.split == "valid" for clip in clips) / len(clips)
    assert 0.1 < share < 0.15
    assert sum(clip.caption is not None for clip in clips) > 0.8 * len(clips)


def tone(number, seconds):
    times = np.arange(round(seconds * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * 200 * 1.25**number * times) * np.exp(-(number % 3) * times)


@pytest.fixture
def lists(tmp_path):
    """Two lists that share a package, whose archive lies in the cache already."""
    contents, clips = {}, []
    for i in range(8):
        encoded = io.BytesIO()
        soundfile.write(encoded, tone(i, 1 + 0.5 * i), RATE, format="WAV")
        path = f"package/{i}.wav"
        contents[path] = encoded.getvalue()
        values = dict(id=f"toy/{i}", package="toy", path=path, caption="a dog barks" if i else None, seconds=1.0)
        values |= dict(split="valid" if i > 6 else "train", source=f"toy/{i}", licence="CC0-1.0")
        clips.append({**values, "sha256": hashlib.sha256(contents[path]).hexdigest()})
    package = dict(client="npm", name="toy", version="1", licence="CC0-1.0", homepage="https://toy", megabytes=1)
    (tmp_path / "one.json").write_text(json.dumps({"packages": [package], "clips": clips[:4]}))
    (tmp_path / "two.json").write_text(json.dumps({"packages": [], "clips": clips[4:]}))
    (tmp_path / "cache").mkdir()
    with tarfile.open(tmp_path / "cache" / "toy-1.tgz", "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return [tmp_path / "one.json", tmp_path / "two.json"]


@pytest.fixture
def esc50(tmp_path):
    folder = tmp_path / "ESC-50-master"
    (folder / "meta").mkdir(parents=True)
    (folder / "audio").mkdir()
    with open(folder / "meta" / "esc50.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
        for fold, category, esc10 in ((1, "dog", True), (2, "rain", True), (4, "dog", True), (1, "cat", False)):
            name = f"{fold}-{fold}00-A-{category}.wav"
            table.writerow([name, fold, 0, category, esc10, f"{fold}00", "A"])
            soundfile.write(folder / "audio" / name, tone(fold + 3 * len(category), 5), RATE)
    return folder


def test_one_command_makes_everything(lists, esc50, tmp_path, capsys):
    out = tmp_path / "out"
    corpus.build(lists, out, tmp_path / "cache", esc50, scenes=4, seed=0)
    records = {record.id: record for record in read_manifest(out / "manifest.jsonl")}
    assert records["toy/0"].caption is None
    assert records["toy/1"].caption in phrasings("a dog barks")
    assert records["toy/7"].split in ("valid", "test")
    dog = records["esc50/1-100-A-dog"]
    assert dog.caption in TRAIN["dog"]
    held_out = records["esc50/4-400-A-dog"]
    assert (held_out.split, held_out.labels, held_out.source) == ("test", ("dog",), "freesound/400")
    assert not any("cat" in name for name in records)  # no class of ESC-10
    composed = read_manifest(out / "composed.jsonl")
    assert len([record for record in composed if record.split == "train"]) == 4
    training = read_manifest(out / "training.jsonl")
    assert len({record.id for record in training}) == len(training)
    assert all(record.split != "test" for record in training)
    varied = [record for record in training if record.id.startswith(f"{dog.id}/variant")]
    assert len(varied) == len({record.path for record in varied}) == corpus.ESC10_VARIANTS
    assert len({record.caption for record in [dog, *varied]}) == 1 + corpus.ESC10_VARIANTS
    assert {record.caption for record in varied} < set(TRAIN["dog"])
    assert all((record.labels, record.source) == (dog.labels, dog.source) for record in varied)
    lasting = {round(audio_seconds(record.path), 2) for record in varied}
    assert lasting <= {round(5 * rate / 16_000, 2) for rate in RATES}
    assert len(lasting) > 2
    short = {record.path for record in composed if record.split == "train" and record.duration <= 5}
    assert {record.path for record in training if "composed" in record.path} == short
    lines = {name: (out / f"{name}.jsonl").read_text().splitlines() for name in ("manifest", "composed", "training")}
    assert set(lines["training"]) >= {line for line in lines["manifest"] if '"split": "test"' not in line}
    assert len(set(lines["training"]) & set(lines["composed"])) == len(short)
    assert str(out) not in "".join(lines["training"])  # so that it is the same in every folder, and may be moved
    page = (out / "licences.md").read_text()
    assert "| [toy](https://toy) | 8 | CC0-1.0 (8) |" in page
    assert "freesound" in page.lower()
    assert ", 400" in page
    assert "clips: CC0-1.0" in capsys.readouterr().out
    before = (out / "manifest.jsonl").read_bytes()
    (tmp_path / "cache" / "toy-1.tgz").unlink()  # so that a second fetch would need the network
    corpus.build(lists, out, tmp_path / "cache", esc50, scenes=4, seed=0)
    assert (out / "manifest.jsonl").read_bytes() == before


def test_a_wrong_folder_is_said_before_anything_is_fetched(lists, tmp_path, esc50):
    with pytest.raises(ValueError, match=r"esc50\.csv: no such file"):
        corpus.build(lists, tmp_path / "out", tmp_path / "cache", tmp_path / "nowhere", scenes=0, seed=0)
    assert not (tmp_path / "out").exists()
    table = esc50 / "meta" / "esc50.csv"
    table.write_text(table.read_text().replace("cat,False", "cat,True"))
    with pytest.raises(ValueError, match="ESC-10 has no class 'cat'"):
        corpus.build(lists, tmp_path / "out", tmp_path / "cache", esc50, scenes=0, seed=0)
