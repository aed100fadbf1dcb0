"""Copies of shards on a node: who may wait for whom, what may be removed, and what happens to a damaged one."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch

from impact_pl.config import DataConfig
from impact_pl.data.cache import ShardCache
from impact_pl.data.datamodule import LatentDataModule
from impact_pl.data.index import ShardIndex
from impact_pl.data.shards import LatentDataset
from impact_pl.errors import UserError

FORK_DURING_A_DOWNLOAD = """
import fcntl, os, signal, sys, time
from pathlib import Path
from impact_pl.data.cache import ShardCache
from impact_pl.data.shards import LatentDataset

shards, folder = sys.argv[1], Path(sys.argv[2])
cache = ShardCache(folder)
entry = LatentDataset(f"{shards}/train").index.shards[0]
cache.prefetch([(f"pipe:sleep 3; cat {shards}/train/000000.tar", entry)])
while not list(folder.glob("*.partial")):
    time.sleep(0.01)
worker = os.fork()  # runs nothing: a lock that another thread holds at this moment would block it
if worker == 0:
    time.sleep(600)
assert list(folder.glob("*.partial")), "the download ended before the worker was there: no test of anything"
while not (folder / f"{entry['sha256']}.tar").is_file():
    time.sleep(0.01)
time.sleep(0.5)  # for the thread to give the lock back
assert os.waitpid(worker, os.WNOHANG) == (0, 0)  # alive, with the lock's file open
with open(folder / f".{entry['sha256'][:2]}.lock", "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.kill(worker, signal.SIGKILL)
print("free")
"""


def test_workers_forked_during_a_download_do_not_keep_its_lock(shards, tmp_path):
    """Everyone else on the node would wait for the end of the training."""
    command = [sys.executable, "-c", FORK_DURING_A_DOWNLOAD, str(shards), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "free\n", done.stderr


def test_room_is_made_of_copies_alone(shards, tmp_path):
    (tmp_path / "cache").mkdir()
    own = [tmp_path / "cache" / name for name in ("music.tar", f"{'0' * 63}.tar", f"{'0' * 64}.tar.tar")]
    for path in own:
        path.write_bytes(b"x" * 100_000)
    entries = ShardIndex.load(shards / "train").shards
    cache = ShardCache(tmp_path / "cache", max_bytes=max(entry["bytes"] for entry in entries))
    copies = [cache.fetch(f"file:{shards}/train/{entry['name']}", entry) for entry in entries]
    assert [path.is_file() for path in copies] == [False] * 6 + [True]
    assert all(path.is_file() for path in own)


@pytest.mark.parametrize("damage", ["zeros", "nan"])
def test_a_damaged_copy_is_fetched_again(shards, tmp_path, damage):
    folder = f"file:{shards}/train"
    cache = ShardCache(tmp_path / "cache")
    sample = LatentDataset(folder, cache)[0]
    (copy,) = cache.folder.glob("*.tar")
    sound = copy.read_bytes()
    at = sound.index(b"NUMPY") + 127  # where the numbers of the first array begin
    copy.write_bytes(bytes(len(sound)) if damage == "zeros" else sound[:at] + b"\0\x7e" + sound[at + 2 :])
    assert torch.equal(LatentDataset(folder, cache)[0]["moments"], sample["moments"])
    assert copy.read_bytes() == sound


def test_a_source_that_was_made_damaged_is_named_with_its_copy(shards, tmp_path):
    path = shards / "train" / "000000.tar"
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))
    index = json.loads((shards / "train" / "index.json").read_text())
    checksum = index["shards"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (shards / "train" / "index.json").write_text(json.dumps(index))
    dataset = LatentDataset(f"file:{shards}/train", ShardCache(tmp_path / "cache"))
    with pytest.raises(
        ValueError, match=rf"000000\.tar and its copy .*{checksum}\.tar, just fetched again: sample 3 is"
    ):
        dataset[3]


def test_a_cache_that_cannot_be_written_is_told(shards, tmp_path):
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "file", tmp_path / "file" / "below", "/proc/here"):
        with pytest.raises(ValueError, match=rf"^data\.cache={cache}: cannot be written \(.*choose a folder"):
            LatentDataModule(DataConfig(path=str(shards), cache=str(cache)))


def test_links_are_not_followed(shards, tmp_path):
    """Of a folder in /tmp, whose name anyone can guess and take."""
    (entry, *_) = ShardIndex.load(shards / "train").shards
    url = f"file:{shards}/train/{entry['name']}"
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".room.lock").symlink_to(victim)
    with pytest.raises(UserError, match="cannot be written"):
        ShardCache(tmp_path / "cache")
    assert victim.read_text() == "mine"
    (tmp_path / "cache" / ".room.lock").unlink()
    copy = tmp_path / "cache" / f"{entry['sha256']}.tar"
    copy.symlink_to(victim)
    cache = ShardCache(tmp_path / "cache")
    with cache.open(url, entry) as file:
        assert len(file.read()) == entry["bytes"]
    assert not copy.is_symlink()
    assert victim.read_text() == "mine"


def test_another_users_link_to_a_folder_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "cache"
    link.symlink_to(tmp_path / "folder")
    ShardCache(link)  # one's own
    if os.getuid() != 0:
        pytest.skip("only root can give a link away")
    os.lchown(link, 12345, -1)
    with pytest.raises(UserError, match="belongs to another user"):
        ShardCache(link)
