"""impact tune, from a folder of recordings to the page: the result, interruptions, and what a user can get wrong."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from lightning import Callback

from impact_pl.audio import save_audio
from impact_pl.cli import export
from impact_pl.cli import tune as command
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.models.spec import find_model
from impact_pl.training.fit import train
from impact_pl.tuning import tune as service
from impact_pl.tuning.replay import known_captions
from tests.helpers.recordings import RATE, hit, write_hits, write_tiny_model


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("source"))


@pytest.fixture
def sounds(tmp_path) -> Path:
    """Twelve hits, two of them with a caption, and clips that are left out."""
    folder = write_hits(tmp_path / "sounds", 12)
    save_audio(folder / "copy.wav", 0.5 * hit(3), RATE)
    save_audio(folder / "silent.wav", torch.zeros(RATE), RATE)
    save_audio(folder / "clipped.wav", (20 * hit(30)).clamp(-1, 1), RATE)
    (folder / "captions.csv").write_text(
        "file,caption,licence\nsnare_hit_00.wav,a snare drum is hit,CC0\nsnare_hit_01.wav,a snare drum is hit,CC0\n"
        "gone.wav,a gong,CC0\n"
    )
    return folder


def run(*argv) -> int:
    with pytest.raises(SystemExit) as end:
        command.main([str(each) for each in argv])
    return end.value.code or 0


def arguments(sounds: Path, source: Path, tmp_path: Path, name: str = "mine") -> list:
    return [sounds, "--from", source, "--name", name, "--runs-dir", tmp_path / "runs", "--steps", 4, "--device", "cpu"]


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def test_a_folder_becomes_a_model_and_a_page(sounds, source, tmp_path, capsys):
    argv = arguments(sounds, source, tmp_path)
    assert run(*argv) == 0
    said, out = capsys.readouterr().out, tmp_path / "runs" / "mine"
    assert "12 clips of 0.1 min" in said, said
    assert "3 left out" in said
    assert "at most 4 steps of 8 clips (25% replayed)" in said
    page = (out / "tune.html").read_text()
    for words in ("a copy of", "silent: ", "clipped: ", "snare hit", "gone.wav", "Does it copy?", "Recognised", "CC0"):
        assert words in page, words
    assert page.count("<audio") >= 8
    card = (out / "model" / "README.md").read_text()
    assert card.startswith("---\nlicense: other\n")
    assert "| CC0 | snare_hit_00.wav | 1 |" in card
    captions = (out / "model" / "captions.txt").read_text().splitlines()
    assert {"snare hit", "a dog barks"} < set(captions)
    pipeline = ImpactPipeline.from_pretrained(out / "model", "cpu")
    assert pipeline.model.spec.own_decoding.num_iterations == 2
    assert pipeline("a snare drum is hit").waveforms.shape == (1, round(0.64 * RATE))
    before, made = weights(out), (out / "tune.html").stat().st_mtime_ns
    assert run(*argv) == 0  # nothing is done twice but the page
    assert weights(out) == before
    assert (out / "tune.html").stat().st_mtime_ns > made
    assert run(*arguments(sounds, source, tmp_path)[:-4], "--steps", 5) == 2
    assert "was begun with steps 4, not 5: choose another --name" in capsys.readouterr().err


class Stop(Exception):
    pass


STAGES = ["write_manifest", "Precomputer", "write_replay", "time_step", "train", "save_model", "show_outcome"]


@pytest.mark.slow
def test_interrupted_at_every_stage_it_continues_to_the_same_model(sounds, source, tmp_path, monkeypatch):
    argv = arguments(sounds, source, tmp_path, "whole")
    assert run(*argv) == 0
    argv = arguments(sounds, source, tmp_path, "parts")
    for stage in STAGES:
        with monkeypatch.context() as patch:
            patch.setattr(service, stage, _stop)
            with pytest.raises(Stop):
                command.main([str(each) for each in argv])
        if stage == "train":  # and in the middle of it
            with monkeypatch.context() as patch:
                patch.setattr(service, "train", lambda config, more: train(config, [*more, _Interrupt()]))
                assert run(*argv) == 128 + signal.SIGTERM
    assert run(*argv) == 0
    whole, parts = (tmp_path / "runs" / name for name in ("whole", "parts"))
    assert weights(whole) == weights(parts)
    for name in ("sounds/after/000.flac", "replay/000003.tar", "manifest.jsonl"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name


def _stop(*_, **__):
    raise Stop


class _Interrupt(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def make(tmp_path: Path, **files: torch.Tensor) -> Path:
    folder = tmp_path / "given"
    folder.mkdir()
    for name, waveform in files.items():
        save_audio(folder / f"{name}.wav", waveform, RATE)
    return folder


def mistake(capsys, *argv) -> str:
    assert run(*argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert lines[-1] == errors[0]
    return errors[0]


def test_bad_folders_are_one_line(source, tmp_path, capsys):
    def told(folder, *more) -> str:
        return mistake(capsys, *arguments(folder, source, tmp_path), *more)

    assert "no such folder of audio files" in told(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no audio files" in told(empty)
    one = make(tmp_path, hit=hit(0))
    assert "1 usable clips in 1 files, at least 5 are needed" in told(one)
    silent = tmp_path / "silent"
    silent.mkdir()
    for i in range(6):
        save_audio(silent / f"nothing_{i}.wav", torch.zeros(RATE), RATE)
    assert "0 usable clips in 6 files, at least 5 are needed; left out: 6, first 'nothing_0': silent: " in told(silent)
    (tmp_path / "tape").mkdir()
    tape = torch.cat([torch.cat([hit(i), torch.zeros(2 * RATE)]) for i in range(8)])
    save_audio(tmp_path / "tape" / "tape.wav", tape, RATE)
    assert "all 8 usable clips are from one source" in told(tmp_path / "tape")
    hits = write_hits(tmp_path / "hits", 6)
    other = tmp_path / "other.csv"
    other.write_text("file,caption\nx.wav,a bell\ny.wav,a gong\n")
    assert "none of its 2 files is in" in told(hits, "--captions", other)
    assert "no such file" in told(hits, "--captions", tmp_path / "none.csv")
    assert "no index of latent shards" in told(hits, "--replay", tmp_path / "hits")
    assert not (tmp_path / "runs").exists()


def test_places_that_cannot_be_written_are_one_line(source, tmp_path, capsys, monkeypatch):
    hits = write_hits(tmp_path / "hits", 6)
    (tmp_path / "runs").write_text("a file where a folder should be")
    assert "runs" in mistake(capsys, *arguments(hits, source, tmp_path))
    (tmp_path / "runs").unlink()

    def full(*_, **__):
        raise OSError(28, "No space left on device", "manifest.jsonl")

    monkeypatch.setattr(service, "write_manifest", full)
    assert "No space left on device; free some space, then run the same command again" in mistake(
        capsys, *arguments(hits, source, tmp_path)
    )


def test_a_huge_file_is_left_out_without_being_read(source, tmp_path, capsys):
    """The header of three hours; its samples are a hole in the file."""
    hits = write_hits(tmp_path / "hits", 4)
    save_audio(hits / "huge.wav", torch.zeros(8), RATE)
    num_bytes = 3 * 3600 * RATE * 2
    with open(hits / "huge.wav", "r+b") as file:
        file.seek(4)
        file.write((36 + num_bytes).to_bytes(4, "little"))
        file.seek(40)
        file.write(num_bytes.to_bytes(4, "little"))
        file.truncate(44 + num_bytes)
    error = mistake(capsys, *arguments(hits, source, tmp_path))
    assert "4 usable clips in 5 files" in error
    assert "'huge': lasts 3.0 hours, at most 2 per file" in error


def test_a_name_stays_inside_the_runs(source, tmp_path, capsys):
    for name in ("../elsewhere", "."):
        argv = arguments(tmp_path, source, tmp_path, name)
        assert f"--name {name}: name a folder inside" in mistake(capsys, *argv)


def test_a_model_without_captions_to_keep_says_what_to_do(source, tmp_path, capsys):
    bare = write_tiny_model(tmp_path / "bare")
    (bare / "captions.txt").unlink()
    hits = write_hits(tmp_path / "hits", 8)
    assert "or tune with --replay none" in mistake(capsys, *arguments(hits, bare, tmp_path))
    assert run(*arguments(hits, bare, tmp_path), "--replay", "none") == 0
    assert json.loads((tmp_path / "runs" / "mine" / "plan.json").read_text())["replay_share"] == 0


def test_an_exported_folder_is_ready_for_the_hub_and_reads_back(source, tmp_path, capsys):
    (source / "README.md").write_text("---\nlicense: other\n---\n# mine\n")
    export.main([str(source), str(tmp_path / "hub"), "--hub"])
    assert "huggingface-cli upload OWNER/NAME" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "hub").iterdir()}
    assert names == {"README.md", "captions.txt", "config.json", "model.safetensors"}
    assert ImpactPipeline.from_pretrained(tmp_path / "hub", "cpu")("rain falls").sample_rate == RATE
    (source / "README.md").unlink()
    export.main([str(source), str(tmp_path / "bare"), "--hub"])
    assert (tmp_path / "bare" / "README.md").read_text().startswith("---\nlicense: other")


def test_a_model_of_the_hub_is_found_by_its_id(source, tmp_path, monkeypatch):
    """The hub's own cache layout, without a network."""
    commit = "0" * 40
    folder = tmp_path / "hub" / "models--someone--mine"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / commit).symlink_to(source)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_model("hub:someone/mine").resolve() == source.resolve()
    assert known_captions("hub:someone/mine") == ["a dog barks", "rain falls"]
