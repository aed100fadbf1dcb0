"""A checkpoint, file or folder, is whole or not there, whenever the process that writes it is killed."""

import itertools
import os
import shutil
from pathlib import Path

import pytest
import torch

from impact_pl.training.checkpoint import export, find_checkpoint
from impact_pl.training.checkpoint_files import (
    META,
    StoredCheckpoint,
    discard,
    find,
    map_tensors,
    put_in_place,
    shard_name,
    shard_rows,
    write_file,
)


class Killed(BaseException):
    pass


def write(path: Path, number: int, kind: str) -> None:
    """A checkpoint that is told by its number."""
    if kind == "file":
        write_file({"number": number}, path)
    else:
        path.mkdir()
        write_file({}, path / shard_name(0, 1))
        write_file({"num_shards": 1, "checkpoint": {"number": number}}, path / META)


def number_at(path: Path) -> int | None:
    found = find(path)
    return None if found is None else StoredCheckpoint(found).content["number"]


@pytest.mark.parametrize(("old", "new"), list(itertools.product(["none", "file", "folder"], ["file", "folder"])))
def test_a_kill_between_any_two_system_calls_leaves_a_whole_checkpoint(tmp_path, monkeypatch, old, new):
    """Interrupted before its n-th change of the disk, for every n; then the next save succeeds."""
    for n in itertools.count():
        path = tmp_path / str(n) / "last.ckpt"
        partial = path.with_name("last.ckpt.partial")
        path.parent.mkdir()
        if old != "none":
            write(path, 1, old)
            write(path.with_name("last.ckpt.old"), 0, "folder")  # left by an earlier kill
        write(partial, 2, new)
        calls = itertools.count()
        with monkeypatch.context() as patch:
            for module, name in ((os, "replace"), (os, "unlink"), (shutil, "rmtree")):
                patch.setattr(module, name, killed_before(n, calls, getattr(module, name)))
            try:
                put_in_place(partial, path)
                break
            except Killed:
                pass
        assert number_at(path) in ({None, 2} if old == "none" else {1, 2})
        discard(partial)
        write(partial, 3, new)
        put_in_place(partial, path)
        assert number_at(path) == 3
    assert n >= 1
    assert number_at(path) == 2
    assert sorted(file.name for file in path.parent.iterdir()) == ["last.ckpt", *["last.ckpt.old"] * (old != "none")]


def killed_before(n: int, calls: itertools.count, function):
    def call(*args, **kwargs):
        if next(calls) == n:
            raise Killed
        return function(*args, **kwargs)

    return call


def test_a_partial_checkpoint_is_none(tmp_path):
    write(tmp_path / "last.ckpt.partial", 1, "folder")
    assert find(tmp_path / "last.ckpt") is None
    with pytest.raises(ValueError, match="no checkpoint at"):
        StoredCheckpoint(find_checkpoint(tmp_path))


def test_find_checkpoint_takes_run_directories_folders_and_files(tmp_path):
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    for kind in ("file", "folder"):
        write(last, 1, kind)
        assert find_checkpoint(tmp_path) == find_checkpoint(last) == last
        os.replace(last, last.with_name("last.ckpt.old"))
        assert find_checkpoint(tmp_path) == find_checkpoint(last) == last.with_name("last.ckpt.old")
        discard(last.with_name("last.ckpt.old"))
    assert find_checkpoint(tmp_path) == last


@pytest.mark.parametrize("num_rows", [1, 2, 5, 8])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_rows_come_back_for_any_number_of_processes(tmp_path, num_rows, processes):
    """Split as torch.chunk does; written by ``processes``, read by 1 to 5."""
    tensor = torch.arange(num_rows * 3.0).reshape(num_rows, 3)
    for rank in range(processes):
        start, stop = shard_rows(num_rows, rank, processes)
        write_file({"a/0": tensor[start:stop].clone()}, tmp_path / shard_name(rank, processes))
    chunks = [len(chunk) for chunk in tensor.chunk(processes)]
    sizes = [stop - start for start, stop in (shard_rows(num_rows, rank, processes) for rank in range(processes))]
    assert [size for size in sizes if size] == chunks
    meta = {"a": [torch.empty_like(tensor, device="meta")], "step": torch.tensor(7.0)}
    write_file({"num_shards": processes, "checkpoint": meta}, tmp_path / META)
    stored = StoredCheckpoint(tmp_path)
    assert torch.equal(stored.read()["a"][0], tensor)
    assert stored.read()["step"] == 7
    for readers in range(1, 6):
        parts = [stored.rows("a/0", tensor.to("meta"), *shard_rows(num_rows, rank, readers)) for rank in range(readers)]
        assert torch.equal(torch.cat(parts), tensor)


def test_names_of_tensors():
    tree = {"a": [torch.zeros(1), {"b": torch.zeros(2)}], "c": (1, torch.zeros(3)), "d": "text"}
    assert map_tensors(tree, lambda name, tensor: name) == {"a": ["a/0", {"b": "a/1/b"}], "c": (1, "c/1"), "d": "text"}


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    for file in (tmp_path / "last.ckpt", tmp_path / "folder" / META):
        file.parent.mkdir(exist_ok=True)
        torch.save({"num_shards": 1, "checkpoint": Evil()}, file)
    for path in (tmp_path / "last.ckpt", tmp_path / "folder"):
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            StoredCheckpoint(path)
    assert not (tmp_path / "harm").exists()


def test_damaged_folders_say_what_to_do(tmp_path):
    folder = tmp_path / "last.ckpt"
    weights = {"ema.model.weight": torch.empty(4, device="meta")}
    meta = {"hyper_parameters": {"spec": {}}, "state_dict": weights}
    folder.mkdir()
    write_file({"num_shards": 2, "checkpoint": meta}, folder / META)
    write_file({"state_dict/ema.model.weight": torch.zeros(2)}, folder / shard_name(0, 2))
    with pytest.raises(ValueError, match=r"incomplete.*00001-of-00002\.pt.*delete it"):
        export(folder, tmp_path / "model")
    (folder / shard_name(1, 2)).write_bytes((folder / shard_name(0, 2)).read_bytes()[:100])
    with pytest.raises(ValueError, match=r"00001-of-00002\.pt is not a readable checkpoint.*delete it"):
        StoredCheckpoint(folder).read()
    write_file({}, folder / shard_name(1, 2))
    with pytest.raises(ValueError, match=r"damaged.*state_dict/ema\.model\.weight.*no such tensor: delete"):
        StoredCheckpoint(folder).read()
    (folder / META).unlink()
    with pytest.raises(ValueError, match=r"incomplete.*meta\.pt.*delete it"):
        StoredCheckpoint(folder)
    write_file([1], folder / META)
    with pytest.raises(ValueError, match="holds something else"):
        StoredCheckpoint(folder)


def test_shards_of_another_size_are_refused(tmp_path):
    """A file of another checkpoint among the shards."""
    write_file({"a": torch.zeros(3)}, tmp_path / shard_name(0, 1))
    write_file({"num_shards": 1, "checkpoint": {"a": torch.empty(4, device="meta")}}, tmp_path / META)
    with pytest.raises(ValueError, match="damaged"):
        StoredCheckpoint(tmp_path).read()
