"""`python -m lab.benchmark`: every subcommand in a tiny configuration, and the page that is made of their records."""

import json

import pytest

from impact_pl.data.shards import LatentDataset
from lab.benchmark import __main__ as benchmark
from lab.benchmark import data, peer_models, subject, tables
from lab.benchmark.__main__ import build_parser
from lab.benchmark.document import write_document

FEW = ["--repeats", 1, "--threads", 1]
TINY = ["--model", "tiny", "--diffusion-steps", 2, *FEW]


@pytest.fixture(autouse=True)
def quick_machine(monkeypatch):
    """Rates from small matrices; no test looks at what they are."""
    from lab.benchmark import machine

    monkeypatch.setattr(machine.product_rates, "__defaults__", (1, 64))


@pytest.fixture
def small_peers(monkeypatch):
    """Every system with its own structure in a few thousand parameters."""
    unet = {"block_out_channels": [32, 32, 64, 64]}
    film = {"cross_attention_dim": unet["block_out_channels"]}
    own = {"AudioLDM-S": film, "AudioLDM2": {}, "Tango": {"attention_head_dim": [2, 2, 2, 2]}}
    for name, (kind, sizes, conditions) in list(peer_models.UNETS.items()):
        monkeypatch.setitem(peer_models.UNETS, name, (kind, sizes | unet | own[name], conditions))
    monkeypatch.setattr(peer_models, "VAE", subject.VAE | {"block_out_channels": [32, 32, 32]})
    monkeypatch.setattr(peer_models, "VOCODER", subject.VOCODER | {"upsample_initial_channel": 64})
    monkeypatch.setattr(peer_models, "MAGNET_SMALL", peer_models.MAGNET_SMALL | {"dim": 32, "depth": 1, "num_heads": 2})
    for name in ("ENCODEC_16KHZ", "ENCODEC_32KHZ"):
        monkeypatch.setattr(peer_models, name, getattr(peer_models, name) | {"num_filters": 4})
    small = {"num_hidden_layers": 1, "ffn_dim": 32, "num_attention_heads": 2, "hidden_size": 32}
    monkeypatch.setattr(peer_models, "MUSICGEN_SMALL", peer_models.MUSICGEN_SMALL | small)
    monkeypatch.setattr(peer_models, "LATENT_SHAPE", (8, 32, 16))
    monkeypatch.setattr(peer_models, "TOKEN_FRAMES", 20)


def table(said: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def record_of(path) -> dict:
    return json.loads(path.read_text())


def test_latency(run, capsys, tmp_path):
    out = tmp_path / "latency.json"
    sizes = ["--iterations", 2, 3, "--batch", 1, 2, "--duration", 1.28, "--preset", "fast"]
    sizes += ["--precision", "32-true", "bf16"]
    assert run(benchmark.main, "latency", *TINY, *sizes, "--json", out) == 0
    said = capsys.readouterr().out
    record = record_of(out)
    assert record["command"].startswith("python -m lab.benchmark latency --model tiny")
    assert record["machine"]["threads"] == 1
    rows = record["rows"]
    variants = ["reference, 32-true", "reference, bf16", "fused, 32-true", "fused, bf16", "preset fast, bf16"]
    variants[-1] = rows[4]["variant"]  # in the precision that the processor computes in
    assert [row["variant"] for row in rows[:5]] == variants
    assert len(rows) == 2 * (2 * 4 + 1)  # two batches; two numbers of iterations, and the preset's own
    for row in rows:
        around = row["parts"]["text"] + row["parts"]["codec"]
        assert row["seconds"] == pytest.approx(row["generation_seconds"] + around)
        assert row["whole"]
    assert [row["iterations"] for row in rows[:4] if {"encoder", "head", "rest"} < set(row["parts"])] == [3] * 4
    assert f"| reference, 32-true | 1 | 3 x 2 | {rows[0]['generation_seconds']:.3g}"[:30] in said


@pytest.mark.parametrize(("computes", "precisions"), [(True, ["32-true", "bf16"]), (False, ["32-true"])])
def test_precisions_that_the_processor_computes_in(run, tmp_path, monkeypatch, computes, precisions):
    """By default: emulated products would take many times as long, and say nothing."""
    monkeypatch.setattr("impact_pl.precision.cpu_computes_bf16", lambda: computes)
    out = tmp_path / "auto.json"
    sizes = ["--iterations", 2, "--duration", 1.28, "--no-codec", "--engine", "fused", "--preset", "fast"]
    assert run(benchmark.main, "latency", *TINY, *sizes, "--json", out) == 0
    named = [f"fused, {precision}" for precision in precisions] + [f"preset fast, {precisions[-1]}"]
    assert [row["variant"] for row in record_of(out)["rows"]] == named
    assert record_of(out)["settings"]["precision"] == precisions


def test_a_trained_model(run, trained, tmp_path):
    """From its folder, with its own codec and text encoder; longer than it can be is an error."""
    model = ["--model", trained / "text" / "model", "--diffusion-steps", 2, *FEW]
    sizes = ["--iterations", 2, "--precision", "32-true", "--engine", "fused"]
    out = tmp_path / "trained.json"
    assert run(benchmark.main, "latency", *model, *sizes, "--duration", 1.28, "--json", out) == 0
    assert set(record_of(out)["rows"][0]["parts"]) == {"text", "codec", "encoder", "head", "rest"}
    assert run(benchmark.main, "latency", *model, *sizes, "--duration", 60) == 2


def test_throughput_and_scaling(run, capsys, tmp_path):
    arguments = ["--iterations", 2, "--precision", "32-true", "--engine", "fused", "--set", "model.head=consistency"]
    assert run(benchmark.main, "throughput", *TINY, *arguments, "--batch", 1, 2, "--duration", 1.28) == 0
    assert table(capsys.readouterr().out)["clips/s at batch"] == ["1", "2"]
    out = tmp_path / "scaling.json"
    assert run(benchmark.main, "scaling", *TINY, *arguments, "--batch", 1, "--duration", 0.64, 20, "--json", out) == 0
    assert table(capsys.readouterr().out)["seconds, for a clip of"] == ["0.64 s", "20 s"]
    assert [row["duration"] for row in record_of(out)["rows"]] == [0.64, 20]


def test_training(run, capsys, tmp_path):
    out = tmp_path / "training.json"
    arguments = ["--model", "tiny", "--batch", 2, "--duration", 1.28, "--variants", 1, 6, *FEW]
    assert run(benchmark.main, "training", *arguments, "--json", out) == 0
    rows = record_of(out)["rows"]
    assert [row["variant"] for row in rows] == [
        "the reference's step",
        "ours: all that, quick dropout and fused AdamW",
    ]
    assert table(capsys.readouterr().out)["the reference's step"][3] == "1"
    assert run(benchmark.main, "training", *arguments, "--variants", 14) == 2
    assert "12: ours, compiled blocks" in capsys.readouterr().err


def test_peers(run, capsys, tmp_path, small_peers):
    pytest.importorskip("diffusers")
    out = tmp_path / "peers.json"
    arguments = ["--iterations", 2, "--batch", 1, "--precision", "32-true"]
    assert run(benchmark.main, "peers", *TINY, *arguments, "--json", out) == 0
    rows = {row["system"]: row for row in record_of(out)["rows"]}
    assert set(peer_models.PEERS) < set(rows)
    assert [name for name, row in rows.items() if row.get("ours")] == [
        "IMPACT tiny, reference, 2 x 2", "IMPACT tiny, fused, 2 x 2"
    ]  # fmt: skip
    assert (rows["Tango"]["steps"], rows["MAGNeT-small-shaped"]["steps"], rows["MusicGen small"]["steps"]) == (
        200,
        50,
        23,
    )
    for row in rows.values():
        assert row["seconds"] == pytest.approx(row["steps_seconds"] + row["sound_seconds"])
    assert "Tango, 32-true" in table(capsys.readouterr().out)
    assert run(benchmark.main, "peers", "--systems", "Suno") == 2


def test_published_sizes_are_those_of_the_papers():
    """Parameters of the repeated parts: Tango 866 M, AudioLDM2 347 M (350 in its paper), AudioLDM-S 185 M."""
    pytest.importorskip("diffusers")
    import torch
    from diffusers import AudioLDM2UNet2DConditionModel, UNet2DConditionModel

    with torch.device("meta"):
        tango = UNet2DConditionModel(**peer_models.TANGO)
        audioldm_s = UNet2DConditionModel(**peer_models.AUDIOLDM_S)
        audioldm2 = AudioLDM2UNet2DConditionModel(**peer_models.AUDIOLDM2)
        magnet = peer_models.MaskedTokens(**peer_models.MAGNET_SMALL)
    sizes = [round(peer_models.count(model) / 1e6) for model in (tango, audioldm_s, audioldm2, magnet)]
    assert sizes == [866, 185, 347, 420]


def test_reading(latents, run, capsys):
    arguments = ["--data", latents, "--workers", 0, 1, "--batch-size", 2, "--repeats", 1]
    assert run(benchmark.main, "reading", *arguments) == 0
    rows = table(capsys.readouterr().out)
    assert rows["variant"] == ["clips/s", "MB/s", "times (a)", "times (b)"]
    ours, theirs, plain = (
        rows[name] for name in ("impact_pl, 0 worker(s)", "(b) webdataset, 0 worker(s)", "(a) the files' bytes")
    )
    assert min(float(row[0]) for row in (ours, theirs, plain)) > 0
    assert float(ours[3]) > 0
    assert theirs[3] == ""
    assert float(rows["impact_pl, 1 worker(s)"][0]) > 0


def test_webdataset_gives_the_same_batches(latents):
    """What is compared is the same work: every clip once, with the same tensors."""
    dataset = LatentDataset(latents / "train")
    setting = data.Reading(latents, batch_size=5, epochs=1)
    ours = {dataset[i]["key"]: dataset[i] for i in range(len(dataset))}
    seen = []
    for batch in data.webdataset_pipeline(dataset, setting):
        for row, key in enumerate(batch["keys"]):
            seen.append(key)
            assert batch["moments"][row].equal(ours[key]["moments"])
            assert batch["text"].features["minilm"][row].equal(ours[key]["text"]["minilm"])
            assert batch["text"].mask[row].equal(ours[key]["text_mask"])
            assert batch["captions"][row] == ours[key]["caption"]
    assert sorted(seen) == sorted(ours)


def test_random_shards_are_shards(latents, tmp_path):
    """Those that `reading` makes where no data is given."""
    from impact_pl.config import ModelConfig
    from lab.benchmark.subject import planned_spec

    folder = data.random_shards(tmp_path, planned_spec(ModelConfig()), num_frames=32, clips=5, per_shard=2)
    dataset = LatentDataset(folder / "train")
    assert len(dataset) == 5
    real = LatentDataset(latents / "train")[0]
    made = dataset[4]
    assert made["moments"].shape == real["moments"].shape
    assert made["text"]["minilm"].shape == real["text"]["minilm"].shape


def test_too_few_clips(latents, run, capsys):
    assert run(benchmark.main, "reading", "--data", latents, "--batch-size", 500) == 2
    assert "has 12 clips: too few for --batch-size 500" in capsys.readouterr().err


def test_the_document_holds_all_records(run, tmp_path):
    """Made of files alone; a reference that was timed elsewhere is compared with the rows that do the same work."""
    sizes = ["--iterations", 2, "--duration", 1.28, "--no-codec", "--precision", "32-true"]
    folder = tmp_path / "page"
    assert run(benchmark.main, "latency", *TINY, *sizes, "--json", folder / "cpu-latency.json") == 0
    record = record_of(folder / "cpu-latency.json")
    row = {"batch": 1, "iterations": 2, "diffusion_steps": 2, "precision": "32-true", "seconds": 1234.0, "whole": True}
    row["duration"] = 1.28
    outside = {
        "format": 1, "part": "outside", "command": "python time_it.py", "taken": "2026-01-31", "name": "the reference",
        "machine": {"name": record["machine"]["name"]}, "how": "With a stopwatch.", "settings": {"model": "tiny"},
    }  # fmt: skip
    (folder / "outside.json").write_text(json.dumps(outside | {"rows": [row]}))
    out = tmp_path / "page.md"
    files = sorted(folder.glob("*.json"))
    assert run(benchmark.main, "document", *files, "--out", out) == 0
    page = out.read_text()
    exact = record["rows"][1]
    assert f"| {1234 / exact['generation_seconds']:,.0f} |" in page
    for text in ("With a stopwatch.", record["command"], "### Timed outside: the reference", record["machine"]["name"]):
        assert text in page
    assert "page/cpu-latency.svg" in page
    first = page, (folder / "cpu-latency.svg").read_bytes()
    write_document(files, out)
    assert (out.read_text(), (folder / "cpu-latency.svg").read_bytes()) == first


def test_what_is_no_record_is_refused(run, tmp_path, capsys):
    (tmp_path / "other.json").write_text('{"format": 1, "part": "lunch", "rows": []}')
    assert run(benchmark.main, "document", tmp_path / "other.json", "--out", tmp_path / "page.md") == 2
    assert "part 'lunch'" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


WRONG = [
    ("--engine", "steam"), ("--preset", "slow"), ("--precision", "fp8"),
    ("--diffusion-steps", "5000"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_mistakes_are_found_before_anything_is_measured(run, capsys, tmp_path, monkeypatch, wrong):
    """And an earlier record stays."""
    from lab.benchmark import latency

    monkeypatch.setattr(latency, "measure", None)
    earlier = tmp_path / "latency.json"
    earlier.write_text("an earlier one")
    few = ["--iterations", 2, "--duration", 0.64, "--no-codec", "--json", earlier]
    assert run(benchmark.main, "latency", *TINY, *few, *wrong) == 2
    assert wrong[1] in capsys.readouterr().err
    assert earlier.read_text() == "an earlier one"


def test_what_cannot_be_timed_is_refused_before_the_rest_is(run, capsys, trained, monkeypatch):
    """Changes of a trained model, training another head."""
    from lab.benchmark import training as timed

    few = ["--iterations", 2, "--duration", 0.64, "--no-codec"]
    assert run(benchmark.main, "latency", "--model", trained / "text" / "model", *few, "--set", "model.dim=8") == 2
    assert "--set changes a named model" in capsys.readouterr().err
    monkeypatch.setattr(timed, "measure", None)
    arguments = ["--model", "base", "--set", "model.dim=24", "model.depth=1", "--batch", 1]
    assert run(benchmark.main, "training", *arguments, "--set", "model.head=mse") == 2
    assert "training steps are timed with the diffusion head only" in capsys.readouterr().err


def test_a_preset_is_compared_with_no_other_work():
    """Its diffusion steps fall, whatever it starts with."""
    same = {"batch": 1, "duration": 10.24, "iterations": 16, "diffusion_steps": 25}
    plain = same | {"engine": "reference", "precision": "32-true", "preset": False}
    assert tables.reference_row(plain, [plain]) is plain
    assert tables.reference_row(plain | {"preset": True}, [plain]) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["throughput", "--iterations", "16", "64"],
        ["scaling", "--iterations", "16", "64"],
        ["peers", "--no-codec"],
        ["peers", "--duration", "5"],
        ["reading", "--device", "cpu"],
    ],
)
def test_options_that_would_be_ignored_are_not_there(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        build_parser().parse_args(arguments)
    assert "unrecognized arguments" in capsys.readouterr().err
