"""Files appear complete or not at all, and what killed processes left is removed."""

import os
import subprocess
import sys
import time

from impact_pl.partial import STALE_SECONDS, create_whole, partial_path, sweep_partials, write_whole


def test_what_killed_processes_left_is_swept(tmp_path, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = partial_path(tmp_path / "000000.tar")
    dead = own.with_name(own.name.replace(f".{os.getpid()}.", f".{ended.pid}."))
    init = own.with_name(own.name.replace(f".{os.getpid()}.", ".1."))
    far_new, far_old = (own.with_name(f".{n}.tar.elsewhere.{ended.pid}.partial") for n in (1, 2))
    for path in (own, dead, init, far_new, far_old):
        path.write_text("x")
    hours_ago = time.time() - 2 * STALE_SECONDS
    os.utime(far_old, (hours_ago, hours_ago))
    (tmp_path / "000000.tar").write_text("x")
    sweep_partials(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {own.name, init.name, far_new.name, "000000.tar"}


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
