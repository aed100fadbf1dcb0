"""Shards behind URLs: the same batches as from the folder, copies that are checked, shared and limited."""

import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from impact_pl.config import DataConfig
from impact_pl.data import remote
from impact_pl.data.cache import ShardCache
from impact_pl.data.datamodule import LatentDataModule
from impact_pl.data.index import ShardIndex
from impact_pl.data.remote import is_url, join
from impact_pl.data.shards import LatentDataset


@pytest.fixture
def served(shards):
    """(URL of the shards, the paths that were asked for, failures to come) of a real HTTP server."""
    asked: list[str] = []
    failures: list[str] = []  # what goes wrong with the next requests

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            failure = failures.pop() if failures and self.path.endswith(".tar") else ""
            if failure:
                self.fail(failure)
            else:
                super().do_GET()

        def fail(self, failure):
            content = (shards / self.path.strip("/")).read_bytes()
            self.send_response({"gone": 404, "forbidden": 403, "busy": 503}.get(failure, 200))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if failure == "cut":
                self.wfile.write(content[:2000])
            elif failure == "changed":
                self.wfile.write(content[:600] + b"!" + content[601:])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(shards)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked, failures
    server.shutdown()
    server.server_close()


def read(path, tmp_path, start=0, steps=5, rank=0, world_size=1, **config) -> list[dict]:
    """The batches of a rank, as the training gets them."""
    data = LatentDataModule(DataConfig(path=str(path), batch_size=4, **config), seed=2)
    data.trainer = SimpleNamespace(
        global_step=0, max_steps=steps, global_rank=rank, local_rank=rank, world_size=world_size,
        num_devices=world_size, accumulate_grad_batches=1, limit_val_batches=1.0, datamodule=data,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )  # fmt: skip
    data.load_state_dict({"samples_consumed": start, "step": 0, "block_shards": config.get("block_shards", 0)})
    data.setup("fit")
    assert len(list(data.val_dataloader())) == 1 + (world_size == 1)
    return list(data.train_dataloader())


def same(first: list[dict], second: list[dict]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(a["keys"] == b["keys"] and torch.equal(a["moments"], b["moments"]) for a, b in pairs)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("block_shards", [0, 2])
def test_http_gives_the_batches_of_the_folder(shards, served, tmp_path, workers, block_shards):
    url, asked, _ = served
    cache = tmp_path / "cache"
    here = read(shards, tmp_path, steps=15, block_shards=block_shards)
    assert len({key for batch in here for key in batch["keys"]}) == 60
    there = read(url, tmp_path, steps=15, cache=str(cache), block_shards=block_shards, num_workers=workers)
    assert same(here, there)
    tars = [path for path in asked if path.endswith(".tar")]
    assert len(tars) == len(set(tars)) <= 8  # each is fetched once, whoever needs it
    before = len(asked)
    assert same(here, read(url, tmp_path, steps=15, cache=str(cache), block_shards=block_shards))
    assert {path.rsplit("/")[-1] for path in asked[before:]} == {"index.json"}


@pytest.mark.parametrize("scheme", ["file:{}", "file://{}", "pipe:cat {}/%s", "pipe:dd if={}/%s status=none | cat"])
def test_other_urls(shards, tmp_path, scheme):
    url = scheme.format(shards)
    assert is_url(url)
    assert not is_url(str(shards))
    assert same(read(shards, tmp_path), read(url, tmp_path, cache=str(tmp_path / "cache")))


def test_a_folder_may_be_read_through_a_cache(shards, tmp_path):
    here = read(shards, tmp_path)
    assert same(here, read(shards, tmp_path, cache=str(tmp_path / "cache")))
    shutil.rmtree(shards / "train", ignore_errors=True)
    assert len(list((tmp_path / "cache").glob("*.tar"))) >= 5


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("block_shards", [0, 3])
def test_elastic_resume_reads_every_sample_of_the_epoch_once(shards, tmp_path, workers, block_shards):
    """One process for 4 steps, three for 2, two for the rest of the 62 clips and a little more."""
    seen, done = [], 0
    for world_size, steps in ((1, 4), (3, 2), (2, 3)):
        options = {"num_workers": workers, "block_shards": block_shards}
        ranks = [read(shards, tmp_path, done, steps, rank, world_size, **options) for rank in range(world_size)]
        seen += [key for step in range(steps) for batches in ranks for key in batches[step]["keys"]]
        done += 4 * steps * world_size
    assert sorted(seen[:62]) == sorted(f"clip{i}" for i in range(62))
    whole = read(shards, tmp_path, 0, 16, **options)
    assert seen == [key for batch in whole for key in batch["keys"]]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("cut", "Response payload is not completed"),
        ("changed", "its checksum is not the index's"),
        ("busy", "503, message='Service Unavailable'"),
    ],
)
def test_a_bad_download_is_tried_again_and_then_told(served, tmp_path, monkeypatch, caplog, failure, reason):
    monkeypatch.setattr(remote, "FIRST_WAIT_SECONDS", 0.01)
    url, asked, failures = served
    failures += [failure] * (remote.ATTEMPTS - 1)
    dataset = LatentDataset(f"{url}/train", ShardCache(tmp_path / "cache"))
    assert dataset[0]["key"] == "clip0"
    assert sum(path.endswith("000000.tar") for path in asked) == remote.ATTEMPTS
    assert len(caplog.messages) == remote.ATTEMPTS - 1
    for attempt, line in enumerate(caplog.messages, start=1):
        assert line.startswith(f"{url}/train/000000.tar: attempt {attempt} of {remote.ATTEMPTS} failed (")
        assert reason in line
    failures += [failure] * remote.ATTEMPTS
    with pytest.raises(ValueError, match=rf"^{url}/train/000001\.tar: could not be read in 7 attempts"):
        dataset[7]
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")] == [
        f"{dataset.index.shards[0]['sha256']}.tar"
    ]
    assert dataset[7]["key"] == "clip7"


@pytest.mark.parametrize(("failure", "told"), [("gone", "no such file"), ("forbidden", "in 1 attempt .403, message=")])
def test_what_the_server_does_not_give_is_asked_for_once(served, tmp_path, failure, told):
    url, asked, failures = served
    failures += [failure]
    dataset = LatentDataset(f"{url}/train", ShardCache(tmp_path / "cache"))
    with pytest.raises(ValueError, match=rf"000000\.tar: .*{told}"):
        dataset[0]
    assert sum(path.endswith("000000.tar") for path in asked) == 1


def test_a_full_disk_is_told_at_once(shards):
    entry = ShardIndex.load(shards / "train").shards[0]
    for url in (f"pipe:cat {shards}/train/000000.tar /dev/zero", f"file:{shards}/train/000000.tar"):
        with pytest.raises(ValueError, match=r"no room for its copy .*set data\.cache and data\.cache_gb"):
            remote.download(url, Path("/dev/full"), entry["bytes"], entry["sha256"])


def test_a_url_without_valid_shards(shards, served, tmp_path):
    shutil.rmtree(shards / "valid")
    data = LatentDataModule(DataConfig(path=served[0], cache=str(tmp_path / "cache")))
    data.trainer = SimpleNamespace(limit_val_batches=1.0)
    with pytest.raises(ValueError, match=r"valid/index\.json: no such .*trainer\.validate_every_steps=0 trains wit"):
        data.setup("fit")
    data.trainer.limit_val_batches = 0
    data.setup("fit")
    assert data.val_dataloader() == []
    assert data.num_valid_batches == 0


def test_what_cannot_be_read_says_what_to_do(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_SECONDS", 0.01)
    for path, message in (
        ("http://127.0.0.1:9", "could not be read in 7 attempts"),
        ("s3://bucket/latents", "s3://bucket/latents/train/index.json: Install s3fs .*use 'pipe:COMMAND %s'"),
        ("ais://bucket/latents", "ais://bucket/latents/train/index.json: Protocol not known: .*use 'pipe:COMMAND %s'"),
        (f"pipe:cat {shards}", "needs %s where the file's name goes"),
        (f"pipe:cat {shards}/gone/%s", "could not be read"),
        (f"file:{shards}/gone", "no such file"),
    ):
        with pytest.raises(ValueError, match=message):
            LatentDataModule(DataConfig(path=path))


@pytest.mark.parametrize("name", ["../x.tar", "/etc/x.tar", "a/b.tar", "..tar", "x.tar;rm", "pipe:x.tar", "x.tar\n"])
def test_an_index_cannot_lead_out_of_its_folder(shards, tmp_path, name):
    path = shards / "train" / "index.json"
    index = json.loads(path.read_text())
    index["shards"][0]["name"] = name
    path.write_text(json.dumps(index))
    for location in (str(shards / "train"), f"pipe:cat {shards}/train/%s"):
        with pytest.raises(ValueError, match=r"index\.json: key 'shards\.0\.name': .*should match pattern"):
            ShardIndex.load(location)


def size_if_there(path: Path) -> int:
    """The thread that fetches ahead may still be at work, and drop a copy at any moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_the_least_recently_opened_copies_go(shards, tmp_path):
    """Room for three shards: reading goes on, with what is in use and what comes next."""
    sizes = [shard["bytes"] for shard in ShardIndex.load(shards / "train").shards]
    cache = tmp_path / "cache"
    gb = 4.5 * max(sizes) / 1e9
    here = read(shards, tmp_path, steps=40, block_shards=2)
    assert same(here, read(f"file:{shards}", tmp_path, steps=40, block_shards=2, cache=str(cache), cache_gb=gb))
    assert 0 < sum(map(size_if_there, cache.glob("*.tar"))) <= gb * 1e9
    with pytest.raises(ValueError, match=r"data\.cache_gb=.* is less than .*data\.block_shards=0 .*some block_shards"):
        read(f"file:{shards}", tmp_path, cache=str(cache), cache_gb=gb)


def test_two_processes_fetch_a_shard_once(shards, tmp_path):
    """A command that takes its time, in two processes at once: the second one waits and finds the copy."""
    log = tmp_path / "log"
    url = f"pipe:echo %s >> {log}; sleep 0.5; cat {shards}/%s"
    code = (
        "import sys; from pathlib import Path; from impact_pl.data.cache import ShardCache;"
        "from impact_pl.data.shards import LatentDataset;"
        f"print(LatentDataset({join(url, 'train')!r}, ShardCache(Path({str(tmp_path / 'cache')!r})))[0]['key'])"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in processes] == ["clip0\n", "clip0\n"]
    assert log.read_text().split().count("train/000000.tar") == 1


def test_a_killed_fetch_blocks_nobody(shards, tmp_path):
    cache = ShardCache(tmp_path / "cache")
    code = (
        "import sys; from pathlib import Path; from impact_pl.data.cache import ShardCache;"
        f"ShardCache(Path({str(tmp_path / 'cache')!r})).fetch('pipe:head -c 2000 /dev/zero; exec sleep 60', "
        "{'sha256': '0' * 64, 'bytes': 5000})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(cache.folder.glob("*.partial")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(cache.folder.glob("*.partial"))
    with ShardCache(cache.folder)._locked("00"):  # free again
        assert not list(cache.folder.glob("*.partial"))  # and swept
    (entry, *_) = ShardIndex.load(shards / "train").shards
    assert cache.fetch(f"file:{shards}/train/000000.tar", entry).is_file()
