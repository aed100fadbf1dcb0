"""Long files: whole or not there, and the system's own reason."""

import errno
import resource
import signal

import numpy as np
import pytest

from impact_pl.inference.writer import AudioWriter


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
