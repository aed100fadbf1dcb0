"""The trial noise_order.py on small synthetic sounds; on recordings it is run by hand (see its first lines)."""

import pytest

from lab.trials import noise_order
from tests.helpers.tiny_networks import write_tones

pytestmark = pytest.mark.slow


def test_figures_follow_noise(tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="extra 'eval' is not installed")
    write_tones(tmp_path / "sounds", [f"{index:02d}.wav" for index in range(50)], 0)
    with pytest.raises(SystemExit) as stop:
        noise_order.main(["--sounds", str(tmp_path / "sounds"), "--num", "25", "--duration", "2"])
    assert "every judged figure is in order" in capsys.readouterr().out
    assert stop.value.code == 0


def test_a_figure_that_does_not_follow_is_named():
    rows = [{"name": name, "kl": kl, "embedding_cosine": 1 - kl} for name, kl in [("generated", 0.0), ("noise20", 0.5)]]
    rows.append({"name": "noise5", "kl": 0.25, "embedding_cosine": 0.25})
    assert noise_order.out_of_order({"rows": rows}, True, False) == ["kl: 0.000, 0.500, 0.250"]


def test_scores_of_random_weights_are_not_judged():
    rows = [{"name": name, "clap_score": 0.25, "text_relevance": 0.25} for name in ("generated", "noise20", "noise5")]
    assert noise_order.out_of_order({"rows": rows}, True, False) == ["text_relevance: 0.250, 0.250, 0.250"]
    assert noise_order.out_of_order({"rows": rows}, True, True)[-1] == "clap_score: 0.250, 0.250, 0.250"
