"""`impact evaluate` on the networks of published tables: small random ones, in the official files' formats."""

import json
import os

import numpy as np
import pytest
import soundfile
import torch

from impact_pl.audio import load_audio
from impact_pl.cli.evaluate import main
from impact_pl.evaluation import cache
from impact_pl.evaluation.networks.cnn14 import CHECKPOINT as CNN14_FILE
from tests.helpers.tiny_networks import RATE, write_cnn14, write_tones, write_weights

CLIPS = [f"{index:02d}fmOlUlwoN" for index in range(20)]  # as long as a YouTube id


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_weights(folder)
    return folder


@pytest.fixture
def folders(tmp_path):
    """A folder of generated clips, one of references under YouTube's names with seconds, and a test list."""
    write_tones(tmp_path / "generated", [f"Y{clip}.wav" for clip in CLIPS], 1)
    write_tones(tmp_path / "reference", [f"{clip}_30.flac" for clip in [*CLIPS, "99fmOlUlwoN"]], 2)
    rows = [f"Y{clip},{'high' if index % 2 else 'low'} tone\n" for index, clip in enumerate(CLIPS)]
    (tmp_path / "list.csv").write_text("id,caption\n" + "".join(rows))
    return tmp_path


def arguments(folders, weights, *more) -> list[str]:
    given = ["--generated", folders / "generated", "--reference", folders / "reference"]
    given += ["--test-list", folders / "list.csv", "--weights", weights, "--out", folders / "metrics.json", *more]
    return [str(each) for each in given]


def test_the_paper_s_figures(folders, weights, capsys):
    main(arguments(folders, weights, "--metrics", "paper", "--baseline", f"same={folders / 'reference'}"))
    result = json.loads((folders / "metrics.json").read_text())
    assert result["test_list"]["name"] == "custom (20 clips)"
    assert result["num_samples"] == 20
    assert set(result["networks"]) == {"cnn14", "vggish", "clap"}
    assert list(result["networks"]["cnn14"]["weights_sha256"]) == [CNN14_FILE]
    assert "clap-htsat-fused/model.safetensors" in result["networks"]["clap"]["weights_sha256"]
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["same", "generated", "noise"]  # no floor: every real clip is in the list
    for key in ("fd_cnn14", "fad_vggish", "kl_cnn14"):
        assert rows["same"][key] == pytest.approx(0, abs=1e-4)
        assert 1e-4 < rows["generated"][key] < rows["noise"][key]
    for key in ("fd_cnn14", "fad_vggish", "kl_cnn14", "is_cnn14", "clap_score"):
        low, high = rows["generated"][f"{key}_interval"]
        assert low <= rows["generated"][key] <= high
    assert not any("text_relevance" in note or "FD-YAMNet" in note for note in result["notes"])  # nobody asked for them
    said = capsys.readouterr().out
    assert "custom (20 clips), N = 20" in said
    assert "FAD-VGGish" in said


def test_features_are_cached_by_content(folders, weights, monkeypatch):
    """A second run reads no sound; a sound of other content, or a network of other weights, is never a stale entry."""
    cached = arguments(folders, weights, "--networks", "cnn14", "--cache", folders / "cache")
    read = []

    def load(path, *rest):
        read.append(path)
        return load_audio(path, *rest)

    def figure(given) -> float:
        read.clear()
        main(given)
        rows = json.loads((folders / "metrics.json").read_text())["rows"]
        return next(row["fd_cnn14"] for row in rows if row["name"] == "generated")

    monkeypatch.setattr(cache, "load_audio", load)
    first = figure(cached)
    assert len(read) == 2 * len(CLIPS)
    assert figure(cached) == first
    assert read == []

    changed = folders / "generated" / f"Y{CLIPS[0]}.wav"
    before = changed.stat()
    soundfile.write(changed, 0.3 * torch.randn(RATE, generator=torch.Generator().manual_seed(9)).numpy(), RATE)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changed.stat().st_size == before.st_size  # name, size and time say nothing
    second = figure(cached)
    assert read == [str(changed)]
    assert second != first
    assert second == figure(arguments(folders, weights, "--networks", "cnn14"))

    entries = sorted((folders / "cache").glob("*.npz"))
    entries[0].write_bytes(b"")
    entries[1].write_bytes(entries[1].read_bytes()[:300])
    entries[2].write_bytes(b"PK\x03\x04" + bytes(200))
    damaged = bytearray(entries[3].read_bytes())
    damaged[100:140] = bytes(40)
    entries[3].write_bytes(damaged)
    np.savez(entries[4], other=np.zeros(3))
    before_damage = figure(cached)
    assert before_damage == second
    assert len(read) == 5  # made anew, and nothing else

    (folders / "other").mkdir()
    write_cnn14(folders / "other", seed=1)
    other = figure([*cached, "--weights", str(folders / "other")])
    assert len(read) == 2 * len(CLIPS)
    assert other != second
    other = figure([*cached, "--duration", "0.5"])
    assert len(read) == 2 * len(CLIPS)
    assert other != second


def test_yamnet_and_published_networks_stand_in_one_table(folders, weights):
    pytest.importorskip("onnxruntime", reason="extra 'eval' is not installed")
    write_tones(folders / "floor", [f"{index}.wav" for index in range(20)], 3)
    main(
        arguments(
            folders, weights, "--networks", "yamnet,vggish", "--floor", folders / "floor", "--text-encoder", "none"
        )
    )
    result = json.loads((folders / "metrics.json").read_text())
    assert [network["fitted_seconds"] for network in result["networks"].values()] == [1.0, None]
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["real"]["kl"] is None
    assert min(rows["real"]["fd_yamnet"], rows["real"]["fad_vggish"]) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ["--networks", "cnn13", "--weights", "weights"],
            "unknown evaluation network 'cnn13'; choose one of yamnet, cnn14",
        ),
        (["--metrics", "paper"], "cnn14, vggish, clap: give the folder of their files (--weights"),
        (["--networks", "cnn14", "--weights", "absent"], "absent: no such folder of weights"),
        (["--networks", "cnn14", "--weights", "generated"], "is missing: put the file of that name there"),
        (["--test-list", "absent.csv"], "absent.csv: no such test list"),
        (["--generated", "reference"], "1 sounds are not in the list (99fmOlUlwoN)"),
        (["--reference", "generated", "--test-list", "longer.csv"], "1 of 21 clips have no sound (99fmOlUlwoN)"),
        (["--unpaired"], "cannot be combined with --unpaired"),
        (["--num-samples", "5"], "a test list is used as a whole"),
        (["--captions", "list.csv"], "both name captions"),
        (
            ["--test-list", "short.csv", "--generated", "few", "--networks", "cnn14", "--weights", "absent"],
            "2 sounds per row: is_cnn14 needs at least 10",  # before weights are looked for
        ),
    ],
)
def test_mistakes_end_with_a_message(folders, capsys, monkeypatch, change, message):
    monkeypatch.chdir(folders)
    (folders / "longer.csv").write_text((folders / "list.csv").read_text() + "99fmOlUlwoN,low tone\n")
    (folders / "short.csv").write_text("".join((folders / "list.csv").read_text().splitlines(keepends=True)[:3]))
    write_tones(folders / "few", [f"Y{clip}.wav" for clip in CLIPS[:2]], 1)
    given = ["--generated", "generated", "--reference", "reference", "--test-list", "list.csv"]
    with pytest.raises(SystemExit) as stop:
        main([*given, *change])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_clap_needs_captions(folders, weights, capsys):
    given = ["--generated", folders / "generated", "--reference", folders / "generated", "--unpaired"]
    with pytest.raises(SystemExit):
        main([str(each) for each in (*given, "--networks", "clap", "--weights", weights)])
    error = capsys.readouterr().err
    assert "the CLAP score needs a caption for every generated sound" in error
    assert "20 sounds" not in error  # nothing was computed first
