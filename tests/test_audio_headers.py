"""Headers of audio files are not believed: rates and lengths are checked before anything is allocated for them."""

import numpy as np
import pytest
import soundfile

from impact_pl.audio import audio_seconds, load_audio
from impact_pl.errors import UserError


@pytest.mark.parametrize("rate", [1, 2**31 - 1])
def test_impossible_rates(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16_000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    for read in (load_audio, audio_seconds):
        with pytest.raises(UserError, match=rf"a\.wav: its header claims {rate} Hz"):
            read(tmp_path / "a.wav")


def test_a_length_that_the_bytes_cannot_hold(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(16_000), 16_000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] |= 0x0F  # the upper bits of STREAMINFO's number of samples
    content[22:26] = b"\xff" * 4
    (tmp_path / "a.flac").write_bytes(content)
    for read in (load_audio, audio_seconds):
        with pytest.raises(UserError, match=r"a\.flac: its header claims 68719476735 samples"):
            read(tmp_path / "a.flac")


def test_long_silence_is_no_damage(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(16_000 * 600, dtype=np.int16), 16_000)
    assert audio_seconds(tmp_path / "a.flac") == 600
