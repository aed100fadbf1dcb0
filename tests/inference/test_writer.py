"""Long files: whole or not there, and the system's own reason."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from impact_pl.inference.recording import Recording
from impact_pl.inference.writer import AudioWriter
from impact_pl.partial import partial_path


@pytest.fixture
def full_disk():
    """Lets no file of this process grow beyond 64 KiB."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, full_disk, suffix):
    path = tmp_path / f"long{suffix}"
    noise = np.random.default_rng(0).uniform(-1, 1, (1 << 18, 1))
    with pytest.raises(OSError, match="File too large") as caught, AudioWriter(path, 16_000) as file:
        file.write(noise)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert not list(tmp_path.iterdir())


def test_an_exception_leaves_the_previous_file(tmp_path):
    path = tmp_path / "sound.wav"
    path.write_text("before")

    def interrupted():
        yield np.zeros((9, 1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), AudioWriter(path, 16_000) as file:
        [file.write(samples) for samples in interrupted()]
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path):
    path = tmp_path / "missing" / "sound.wav"
    with pytest.raises(FileNotFoundError) as caught:
        AudioWriter(path, 16_000)
    assert caught.value.filename == str(path)


def test_what_a_killed_process_left_is_removed(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    path = tmp_path / "sound[1].wav"
    mine, left = partial_path(path), partial_path(path).with_suffix("")
    left = left.with_suffix(f".{dead.stdout.strip()}.partial")
    other = tmp_path / left.name.replace("sound", "other")
    left.touch()
    other.touch()
    with AudioWriter(path, 16_000) as file:
        assert mine.is_file()
        file.write(np.zeros((9, 1)))
    assert {each.name for each in tmp_path.iterdir()} == {path.name, other.name}


def test_a_name_that_is_not_utf8_can_be_read(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.wav"))
    soundfile.write(os.fsencode(path), np.full(9, 0.25), 16_000)
    assert Recording(path).samples()[0, 0] == 0.25
