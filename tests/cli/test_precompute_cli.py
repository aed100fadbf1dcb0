"""The command impact precompute: its mistakes and exit codes, and (slow) Ctrl-C on the real codec."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import impact_pl
from impact_pl.audio import save_audio
from impact_pl.cli import precompute
from impact_pl.codecs.registry import load_codec
from impact_pl.data.manifest import Record, write_manifest


def fails(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        precompute.main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said
    return said


def test_mistakes_are_told_in_one_line(tmp_path, capsys):
    manifest, out = tmp_path / "m.jsonl", tmp_path / "out"
    given = (f"manifest={manifest}", f"out={out}")
    assert "manifest is missing" in fails(capsys)
    assert "out is missing" in fails(capsys, given[0])
    assert "no such manifest" in fails(capsys, *given)
    manifest.write_text("")
    assert "the manifest is empty" in fails(capsys, *given)
    manifest.write_text('{"id": "a"}\n')
    assert "line 1: key 'path'" in fails(capsys, *given)
    manifest.write_text('{"id": "a", "path": "a.wav"}\n')
    assert "clip_second" in fails(capsys, *given, "clip_second=5")
    assert "no codec 'gone'" in fails(capsys, *given, "codec=gone")
    assert "device 'foo': PyTorch sees cpu" in fails(capsys, *given, "device=foo")
    if not torch.cuda.is_available():
        assert "no CUDA device" in fails(capsys, *given, "device=cuda")
    assert not out.exists()


def test_help_names_every_key(capsys):
    with pytest.raises(SystemExit) as stop:
        precompute.main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "impact precompute manifest=FILE out=FOLDER" in said
    assert "clip_seconds=10.24" in said


def test_shards_of_the_real_codec_and_text_encoder(latents):
    index = json.loads((latents / "train" / "index.json").read_text())
    assert index["codec"]["name"] == "builtin"
    assert index["text_encoder"]["features"] == {"minilm": [32, 384]}
    channels, frames, _ = index["latents"]["shape"]
    assert frames * index["codec"]["samples_per_latent"] == 1.28 * index["codec"]["sample_rate"]
    assert len(index["latents"]["mean"]) == channels
    assert sum(shard["num_samples"] for shard in index["shards"]) == 12
    assert (latents / "rejected.jsonl").read_text() == ""


def test_a_trained_codec_is_noted_by_its_folder(sounds, tmp_path, monkeypatch, capsys):
    """Also where the folder was given relative to another place; and what is damaged says how to go on."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(Path(impact_pl.__file__).parent / "assets" / "codec", "mine")
    given = (f"manifest={sounds}", "out=out", "clip_seconds=1.28", "codec=mine", "text_encoder=none")
    precompute.main(list(given))
    codec = json.loads(Path("out/train/index.json").read_text())["codec"]
    assert codec["name"] == str(tmp_path / "mine")
    assert load_codec(codec["name"]).identity == codec["identity"] == load_codec("builtin").identity
    load_codec("mine").save_pretrained("again")
    assert load_codec("again").name == str(tmp_path / "again")

    Path("out/train/index.json").unlink()
    Path("out/train/000000.done.json").write_text('{"shard":')
    said = fails(capsys, *given)
    assert "000000.done.json: not JSON" in said
    assert "delete that file" in said
    Path("out/run.json").write_text("")
    said = fails(capsys, *given)
    assert "run.json: is empty" in said
    assert "delete out to begin again" in said


@pytest.mark.slow
def test_ctrl_c_keeps_finished_shards_and_the_same_command_continues(tmp_path):
    generator = torch.Generator().manual_seed(0)
    records = []
    for i in range(120):
        save_audio(tmp_path / f"{i}.wav", 0.5 * torch.randn(160_000, generator=generator), 16_000)
        records.append(Record(str(i), f"{i}.wav", caption=f"noise number {i}"))
    write_manifest(tmp_path / "m.jsonl", records)

    def start(out):
        arguments = [f"manifest={tmp_path / 'm.jsonl'}", f"out={out}", "samples_per_shard=2", "batch_size=1"]
        command = [sys.executable, "-m", "impact_pl", "precompute", *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    assert start(tmp_path / "whole").wait() == 0
    process = start(tmp_path / "out")
    while not (tmp_path / "out" / "train" / "000001.done.json").is_file():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "train" / "index.json").exists()
    process = start(tmp_path / "out")
    said, _ = process.communicate()
    assert process.returncode == 0
    assert "shards were finished before" in said
    for path in (tmp_path / "whole" / "train").iterdir():
        assert (tmp_path / "out" / "train" / path.name).read_bytes() == path.read_bytes()
