"""Class accuracy: which sounds have a label, what is heard in them, and the column that impact evaluate prints."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from impact_pl.audio import save_audio
from impact_pl.cli.evaluate import main
from impact_pl.data.manifest import Record, write_manifest
from impact_pl.evaluation.labels import ESC10, accuracy, heard_labels, labels_of
from impact_pl.evaluation.sounds import find_labels, list_sounds

needs_eval = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="extra 'eval' is not installed")
NAMES = ["Dog", "Bark", "Rain", "Music"]
TABLE = {"dog": ("Dog", "Bark"), "rain": ("Rain",)}
RATE = 16_000


def test_the_likeliest_class_of_a_label_decides():
    """Other classes do not count, however loud, and many weak classes are not one strong one."""
    scores = [[0.0, 0.4, 0.3, 0.9], [0.2, 0.2, 0.3, 0.0]]
    assert heard_labels(scores, NAMES, TABLE) == ["dog", "rain"]
    with pytest.raises(ValueError, match="no class 'Rain'"):
        heard_labels([[1.0, 0.0]], NAMES[:2], TABLE)


def test_accuracy_counts_labelled_sounds_only():
    names = [name for classes in ESC10.values() for name in classes]
    scores = np.zeros((5, len(names)))
    for row, name in enumerate(["Bark", "Dog", "Rain", "Sneeze", "Fire"]):
        scores[row, names.index(name)] = 0.5
    said = accuracy(["dog", "dog", "dog", "sneezing", None], scores, names, np.random.default_rng(0))
    assert said["accuracy"] == 0.75
    assert said["accuracy_by_label"] == {"dog": pytest.approx(2 / 3), "sneezing": 1.0}
    assert said["accuracy_interval"][0] < 0.75 < said["accuracy_interval"][1]


def test_a_sound_with_two_labels_or_an_unknown_one_has_none(tmp_path):
    labels = {"a": ("dog",), "b": ("dog", "rain"), "c": ("cat",), "d": ("cat", "rain"), "e": ()}
    assert labels_of({name: Record(name, name, labels=each) for name, each in labels.items()}) == {
        "a": "dog",
        "d": "rain",
    }
    file = tmp_path / "captions.jsonl"
    file.write_text('{"id": "x/1", "caption": "a dog barks", "labels": ["dog"]}\n{"id": "y", "caption": "rain"}\n')
    assert find_labels(file, {}) == {"x_1": "dog"}
    file.write_text('{"id": "x", "labels": "dog"}\n')
    with pytest.raises(ValueError, match="line 1: key 'labels': input should be a valid"):
        find_labels(file, {})


@needs_eval
def test_every_row_has_an_accuracy(tmp_path, capsys):
    """References are labelled with what YAMNet hears in them, and the codec row holds the references themselves."""
    from impact_pl.evaluation.cache import extract
    from impact_pl.evaluation.networks.yamnet import YamNet

    generator = torch.Generator().manual_seed(0)
    for folder in ("generated", "reference"):
        (tmp_path / folder).mkdir()
        for index in range(4):
            clicks = (torch.rand(RATE, generator=generator) < 10.0 ** (index - 4)).float()
            save_audio(tmp_path / folder / f"s{index}.wav", 0.5 * clicks, RATE)
    sounds = list_sounds(tmp_path / "reference")
    network = YamNet()
    clips = network.collect(extract(network, list(sounds.values()), 1.0))
    heard = heard_labels(clips.scores, network.class_names)
    records = [
        Record(name, each.path, labels=(label,)) for (name, each), label in zip(sounds.items(), heard, strict=True)
    ]
    write_manifest(tmp_path / "m.jsonl", [*records[:3], Record("s3", records[3].path)])

    arguments = ["--generated", tmp_path / "generated", "--reference", tmp_path / "m.jsonl", "--text-encoder", "none"]
    arguments += ["--floor", tmp_path / "generated", "--baseline", f"codec={tmp_path / 'reference'}"]
    main([str(each) for each in [*arguments, "--duration", "1", "--out", tmp_path / "metrics.json"]])
    result = json.loads((tmp_path / "metrics.json").read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["real"]["accuracy"] == rows["codec"]["accuracy"] == 1
    assert rows["noise"]["accuracy"] in (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)
    assert any("over the 3 of 4 sounds" in note for note in result["notes"])
    assert "Accuracy" in capsys.readouterr().out
