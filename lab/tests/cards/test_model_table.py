"""The bars of a model, by the command itself: a tiny model, ten kinds of short sounds that bear the classes' names."""

import json

import numpy as np
import pytest
import soundfile

from impact_pl.data.manifest import Record, write_manifest
from lab.cards import model_table
from lab.cards.bars_markdown import insert
from lab.cards.class_bars import CAPTIONS

# One sound at a time: the size of a batch decides about a sound's last bit, and the second call makes one sound.
FAST = ["--", "--iterations", "2", "--diffusion-steps", "2", "--batch-size", "1"]
FLOOR = {"real, held out", "real, training", "codec, held out", "codec, training", "generated", "white noise"}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder, random, records = tmp_path_factory.mktemp("classes"), np.random.default_rng(0), []
    for number, (label, caption) in enumerate(CAPTIONS.items()):
        for take in range(4):
            tone = np.sin(2 * np.pi * 200 * (number + 1) * np.arange(16_000 * (1 + (take == 3))) / 16_000)
            sound = 0.3 * tone + 0.02 * random.standard_normal(len(tone))
            soundfile.write(folder / f"{label}{take}.wav", sound, 16_000)
            split = "test" if take < 2 else "train"
            records.append(
                Record(f"{label}/{take}", f"{label}{take}.wav", caption=caption, split=split, labels=(label,))
            )
    write_manifest(folder / "manifest.jsonl", records)
    return folder / "manifest.jsonl"


def arguments(manifest, trained, out) -> list:
    argv = ["--manifest", manifest, "--model", trained / "text" / "model", "--out", out, "--clips", 2, "--threads", 1]
    return [*argv, "--duration", 1]


@pytest.mark.slow
def test_the_table_is_made_continued_and_put_into_a_card(manifest, trained, tmp_path, run, capsys):
    pytest.importorskip("onnxruntime")
    card, out = tmp_path / "README.md", tmp_path / "bars"
    card.write_text("# Card\n\n<!-- bars -->\nold\n<!-- /bars -->\n\n## Limits\n")
    argv = [*arguments(manifest, trained, out), "--limit", 15, "--card", card, *FAST]
    assert run(model_table.main, *argv) == 0
    capsys.readouterr()
    result = json.loads((out / "bars.json").read_text())
    assert result["classes"].keys() == FLOOR
    assert result["classes"]["generated"]["num_sounds"] == 20
    assert result["classes"]["generated"]["fd_yamnet"] > 0
    rows = {row["name"]: row for row in result["captions"]["rows"]}
    assert rows.keys() == {"real", "codec", "captions shuffled", "generated", "noise"}
    assert result["captions"]["num_samples"] == 15
    assert rows["captions shuffled"]["fd_yamnet"] == pytest.approx(rows["generated"]["fd_yamnet"], rel=1e-6)
    assert result["training_parts"] == 30  # a clip of two seconds has two
    replay = result["replay"]["classes"]["envelope"]
    assert replay.keys() == result["replay"]["captions"]["embedding"].keys() == FLOOR - {"real, training"}
    assert replay["codec, training"]["percentiles"][5] > replay["white noise"]["percentiles"][5]
    assert all(name.split("/")[0] in CAPTIONS for name in replay["generated"]["nearest"])
    text = (out / "bars.md").read_text()
    assert card.read_text() == f"# Card\n\n<!-- bars -->\n\n{text}\n<!-- /bars -->\n\n## Limits\n"
    assert text.count("| a dog barks |") == 1

    assert len({file.read_bytes() for file in (out / "classes").glob("*.flac")}) == 20  # each with its own seed
    untouched = {file: file.stat().st_mtime_ns for file in out.rglob("*.flac")}
    assert len(untouched) == 20 + 15 + 40  # two sets of generated sounds, and reconstructions of all clips
    sorted((out / "classes").glob("*.flac"))[0].unlink()
    assert run(model_table.main, *argv) == 0
    assert "1 generated, 19 were finished before" in capsys.readouterr().out
    assert json.loads((out / "bars.json").read_text()) == result


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--", "--seed", "3"], "after --: the table itself decides about 'seed'"),
        (["--", "a dog barks"], "after --: the table itself decides about 'captions'"),
        (["--split", "valid"], "holds no record of split 'valid'"),
        (["--card", "nowhere.md"], "nowhere.md: no such model card"),
    ],
)
def test_mistakes_end_before_anything_is_generated(manifest, trained, tmp_path, run, capsys, argv, message):
    pytest.importorskip("onnxruntime")
    assert run(model_table.main, *arguments(manifest, trained, tmp_path / "out"), *argv) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "classes").exists()


def test_a_manifest_without_a_class_is_refused(sounds, trained, tmp_path, run, capsys):
    pytest.importorskip("onnxruntime")
    argv = [*arguments(sounds, trained, tmp_path / "out"), "--split", "valid"]
    assert run(model_table.main, *argv) == 2
    assert "no clip of split 'valid' has the label 'dog'" in capsys.readouterr().err


def test_a_card_without_marks_is_refused(tmp_path):
    (tmp_path / "card.md").write_text("# Card\n")
    with pytest.raises(ValueError, match="has no lines <!-- bars -->"):
        insert(tmp_path / "card.md", "text")
