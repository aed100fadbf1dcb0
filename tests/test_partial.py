"""Files appear complete or not at all, and what killed processes left is removed."""

import os
import subprocess
import sys

from impact_pl.partial import create_whole, partial_path, sweep_partials, write_whole


def test_what_killed_processes_left_is_swept(tmp_path, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = partial_path(tmp_path / "000000.tar")
    dead = own.with_name(own.name.replace(f".{os.getpid()}.", f".{ended.pid}."))
    init = own.with_name(own.name.replace(f".{os.getpid()}.", ".1."))
    far = own.with_name(f".1.tar.elsewhere.{ended.pid}.partial")
    for path in (own, dead, init, far):
        path.write_text("x")
    os.utime(far, (0, 0))  # as old as another machine's clock may make it
    (tmp_path / "000000.tar").write_text("x")
    sweep_partials(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {own.name, init.name, far.name, "000000.tar"}


def test_files_appear_whole(tmp_path, monkeypatch):
    write_whole(tmp_path / "a", "one")
    write_whole(tmp_path / "a", "two")
    assert not create_whole(tmp_path / "a", "three")
    assert create_whole(tmp_path / "b", "four")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "two", "b": "four"}

    def no_links(*_):
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    assert create_whole(tmp_path / "c", "five")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}
