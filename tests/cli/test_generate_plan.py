"""impact generate before any model is loaded: captions, files, what is finished."""

import json
import os
from pathlib import Path

import pytest
import torch

from impact_pl.audio import save_audio
from impact_pl.cli import generate
from impact_pl.cli import jobs as work
from impact_pl.config import PRESETS, DecodingConfig, ModelConfig
from impact_pl.data.manifest import Record, write_manifest
from impact_pl.models.spec import ImpactSpec, write_spec


def plan(*argv: str):
    args = generate.build_parser().parse_args([str(arg) for arg in argv])
    return args, work.plan_jobs(args)


def test_one_caption_to_one_file(tmp_path):
    _, jobs = plan("a dog barks", "-o", tmp_path / "dog.wav")
    assert [(job.caption, job.file) for job in jobs] == [("a dog barks", tmp_path / "dog.wav")]


def test_without_a_name_a_single_caption_gives_one_and_several_go_to_a_folder(tmp_path):
    for caption, name in {"A rooster crows!": "a_rooster_crows.wav", "...": "sound.wav"}.items():
        args, jobs = plan(caption)
        assert args.out == jobs[0].file == Path(name)
    assert plan("rain", "--format", "flac")[1][0].file == Path("rain.flac")
    (tmp_path / "captions.txt").write_text("rain falls\n")
    for argv in (["rain", "wind"], ["--captions-file", tmp_path / "captions.txt"]):
        args, jobs = plan(*argv)
        assert args.out == jobs[0].file.parent == Path("generated")


def test_twenty_captions_come_with_the_package():
    captions = [job.caption for job in plan("--captions-file", "builtin")[1]]
    assert len(captions) == len(set(captions)) == 20
    assert captions[0] == "a rooster crows"


def test_captions_and_files_of_captions_are_joined(tmp_path):
    (tmp_path / "captions.txt").write_text("rain falls\n\n  a bell/rings  \n")
    _, jobs = plan(
        "a dog barks", "--captions-file", tmp_path / "captions.txt", "-o", tmp_path / "out", "--format", "flac"
    )
    assert [job.caption for job in jobs] == ["a dog barks", "rain falls", "a bell/rings"]
    names = [job.file.name for job in jobs]
    assert names == ["0000_a_dog_barks.flac", "0001_rain_falls.flac", "0002_a_bell_rings.flac"]
    assert all(job.file.parent == tmp_path / "out" for job in jobs)


def test_a_dot_does_not_make_a_folder_a_file(tmp_path):
    assert plan("rain", "-o", tmp_path / "v1.2")[1][0].file.parent == tmp_path / "v1.2"
    assert plan("rain", "-o", tmp_path / "rain.WAV")[1][0].file == tmp_path / "rain.WAV"


def test_variations_have_seeds_and_files_of_their_own(tmp_path):
    argv = ("rain", "wind", "-n", "2", "--seed", "7", "-o", tmp_path)
    jobs = plan(*argv)[1]
    assert [(job.file.name, job.seed) for job in jobs] == [
        ("0000_rain_seed7.wav", 7),
        ("0000_rain_seed8.wav", 8),
        ("0001_wind_seed7.wav", 7),
        ("0001_wind_seed8.wav", 8),
    ]
    assert {job.seed for job in plan("rain", "wind", "--seed", "7")[1]} == {7}
    assert plan("rain", "-n", "2")[0].out == Path("generated")


def test_missing_spectrograms_are_drawn(tmp_path):
    jobs = plan("rain", "wind", "-o", tmp_path)[1]
    for job in jobs:
        save_audio(job.file, 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0)), 16_000)
    jobs[0].file.with_suffix(".png").write_bytes(b"as it was")
    newer = jobs[0].file.stat().st_mtime + 1
    os.utime(jobs[0].file.with_suffix(".png"), (newer, newer))
    generate.draw_spectrograms(jobs)
    assert jobs[0].file.with_suffix(".png").read_bytes() == b"as it was"
    assert jobs[1].file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    os.utime(jobs[0].file, (newer + 1, newer + 1))  # a new sound
    generate.draw_spectrograms(jobs)
    assert jobs[0].file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_manifest_gives_captions_of_a_split_and_file_names_from_ids(tmp_path):
    records = [
        Record("a/1", "a.wav", caption="rain", split="valid"),
        Record("b", "b.wav", caption="wind", split="train"),
        Record("c", "c.wav", split="valid"),
    ]
    write_manifest(tmp_path / "manifest.jsonl", records)
    _, jobs = plan("--captions-file", tmp_path / "manifest.jsonl", "--split", "valid", "-o", tmp_path / "out")
    assert [(job.caption, job.file.name) for job in jobs] == [("rain", "a_1.wav")]


def test_ids_that_share_a_file_name_are_refused_and_dots_are_a_name(tmp_path):
    argv = ["--captions-file", tmp_path / "manifest.jsonl", "-o", tmp_path / "out"]
    write_manifest(tmp_path / "manifest.jsonl", [Record(i, "a.wav", caption="rain") for i in ("a/b", "..", "c")])
    assert [job.file.name for job in plan(*argv)[1]] == ["a_b.wav", "__.wav", "c.wav"]
    write_manifest(tmp_path / "manifest.jsonl", [Record(i, "a.wav", caption="rain") for i in ("a/b", "a_b")])
    with pytest.raises(ValueError, match="ids 'a/b' and 'a_b' give the same file name 'a_b'"):
        plan(*argv)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--limit", "-1"], "--limit: -1: at least 1"),
        (["--batch-size", "0"], "--batch-size: 0: at least 1"),
        (["--batch-size", "two"], "'two' is not a whole number"),
        (["--duration", "nan"], "--duration: nan: expected seconds above 0"),
        (["--seed", "2147483648"], "a seed is from 0 to 2147483647"),
        (["--seed", "-1"], "a seed is from 0"),
    ],
)
def test_options_out_of_range(option, message, capsys):
    with pytest.raises(SystemExit) as stop:
        plan("rain", *option)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_test_list_names_the_files(tmp_path):
    (tmp_path / "list.csv").write_text('id,caption\nY-NsC63dA01g,A cat meows\n7fmOlUlwoNg_20,"Clicks, then talk"\n')
    (tmp_path / "list.tsv").write_text("id\tcaption\nY-NsC63dA01g\tA cat meows\n")
    jobs = plan("--captions-file", tmp_path / "list.csv", "-o", tmp_path / "out")[1]
    assert [(job.file.name, job.caption) for job in jobs] == [
        ("Y-NsC63dA01g.wav", "A cat meows"),
        ("7fmOlUlwoNg_20.wav", "Clicks, then talk"),
    ]
    assert [job.caption for job in plan("--captions-file", tmp_path / "list.tsv")[1]] == ["A cat meows"]


def test_unreadable_captions_and_unwritable_folders(tmp_path):
    (tmp_path / "captions.txt").write_bytes("Geräusch".encode("latin-1"))
    with pytest.raises(ValueError, match=r"captions\.txt, line 1: byte 3 is not UTF-8"):
        plan("--captions-file", tmp_path / "captions.txt")
    (tmp_path / "manifest.jsonl").write_text('{"id": "a", "path": "a.wav", "caption": "rain \\ud83d"}\n')
    with pytest.raises(ValueError, match=r"line 1: not JSON \(unexpected end of hex escape"):
        plan("--captions-file", tmp_path / "manifest.jsonl")
    with pytest.raises(OSError, match=r"captions\.txt"):
        work.make_writable(tmp_path / "captions.txt" / "out")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-o", "x.wav"], "no caption given"),
        (["a", "b", "-o", "x.wav"], "2 captions: give a folder"),
        (["a", "-n", "4", "-o", "x.wav"], "4 sounds: give a folder"),
        (["a", "-n", "2", "--seed", "2147483647"], "seeds end at 2147483647"),
        (["rain \udcff"], "is not valid utf-8 text"),
        (["a", "-o", "x.mp3"], r"\.mp3 cannot be written"),
        (["--captions-file", "/nowhere.txt"], "no captions file"),
    ],
)
def test_mistakes(argv, message):
    with pytest.raises(ValueError, match=message):
        plan(*argv)


def test_decoding_is_the_models_own_but_for_what_is_given(tmp_path):
    model = ["rain", "--model", str(tmp_path)]
    assert work.decoding_of(plan(*model)[0]) == DecodingConfig()
    own = {"num_iterations": 7, "guidance_scale": 2.0, "temperature": 0.8}
    spec = ImpactSpec(ModelConfig(), 8, 16, [0.0] * 8, 1.0, decoding=own)
    write_spec(spec, tmp_path / "config.json")
    assert work.decoding_of(plan(*model)[0]) == DecodingConfig(**own)
    fast = work.decoding_of(plan(*model, "--preset", "fast", "--diffusion-steps", "9")[0])
    assert fast == DecodingConfig(**PRESETS["fast"] | own | {"num_diffusion_steps": 9})  # 7 iterations are fewer still
    few = work.decoding_of(plan(*model, "--preset", "fast", "--diffusion-steps", "4")[0])
    assert (few.num_diffusion_steps, few.final_diffusion_steps) == (4, 4)
    given = ["--final-diffusion-steps", "5", "--diffusion-steps", "4"]  # refused later, for it was said
    assert work.decoding_of(plan(*model, *given)[0]).final_diffusion_steps == 5
    spec.decoding = {"iterations": 7}
    write_spec(spec, tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"config\.json: decoding: unknown key 'iterations'"):
        work.decoding_of(plan(*model)[0])


def test_finished_files_are_skipped_only_for_equal_settings(tmp_path):
    out = tmp_path / "out"
    model = ["--model", tmp_path / "model"]
    args, jobs = plan("rain", "wind", "-o", out, *model)
    settings = work.settings_of(args)
    out.mkdir()
    for job in jobs:
        job.file.touch()
    work.remember(out, jobs[:1], settings)
    with open(out / "generated.jsonl", "a") as log:
        log.write(json.dumps({"file": jobs[1].file.name})[:-5])  # a kill cut the line short
    finished = work.read_finished(out)
    assert [work.is_finished(job, settings, finished) for job in jobs] == [True, False]
    work.remember(out, jobs[1:], settings)
    assert all(work.is_finished(job, settings, work.read_finished(out)) for job in jobs)

    other = work.settings_of(plan("rain", "wind", "-o", out, "--iterations", "3", *model)[0])
    assert not work.is_finished(jobs[0], other, finished)
    vocoder = work.settings_of(plan("rain", "wind", "-o", out, "--vocoder", "fast", *model)[0])
    assert not work.is_finished(jobs[0], vocoder, finished)
    assert not work.is_finished(plan("rain", "-o", out, "--seed", "1", *model)[1][0], settings, finished)
    jobs[0].file.unlink()
    assert not work.is_finished(jobs[0], settings, finished)
