"""The benchmark command: its tables hold every way, and both ways of reading give the same clips."""

from impact_pl.cli import benchmark
from impact_pl.data.shards import LatentDataset


def table(said: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_reading(latents, run, capsys):
    assert run(benchmark.main, "reading", "--data", latents, "--workers", 0, "--batch-size", 2, "--repeats", 1) == 0
    rows = table(capsys.readouterr().out)
    assert rows["way"] == ["clips/s", "MB/s", "times (a)", "times (b)"]
    ours, theirs, plain = (
        rows[name] for name in ("impact_pl, 0 worker(s)", "(b) webdataset, 0 worker(s)", "(a) the files' bytes")
    )
    assert min(float(row[0]) for row in (ours, theirs, plain)) > 0
    assert float(ours[3]) > 0
    assert theirs[3] == ""


def test_webdataset_gives_the_same_batches(latents):
    """What is compared is the same work: every clip once, with the same tensors."""
    dataset = LatentDataset(latents / "train")
    args = benchmark.build_parser().parse_args(
        ["reading", "--data", str(latents), "--batch-size", "5", "--epochs", "1"]
    )
    ours = {dataset[i]["key"]: dataset[i] for i in range(len(dataset))}
    seen = []
    for batch in benchmark.webdataset_pipeline(dataset, args):
        for row, key in enumerate(batch["keys"]):
            seen.append(key)
            assert batch["moments"][row].equal(ours[key]["moments"])
            assert batch["text"].features["minilm"][row].equal(ours[key]["text"]["minilm"])
            assert batch["text"].mask[row].equal(ours[key]["text_mask"])
            assert batch["captions"][row] == ours[key]["caption"]
    assert sorted(seen) == sorted(ours)


def test_precompute(sounds, run, capsys):
    arguments = ["--clips", 8, "--clip-seconds", 1.28, "--workers", 1, "--repeats", 1, "--rate", 22050]
    assert run(benchmark.main, "precompute", "--manifest", sounds, *arguments) == 0
    rows = table(capsys.readouterr().out)
    assert rows["(a) plain loop"][2] == "1.00"
    assert float(rows["impact-precompute, 1 process(es)"][2]) > 0


def test_too_few_clips(latents, run, capsys):
    assert run(benchmark.main, "reading", "--data", latents, "--batch-size", 500) == 2
    assert "has 12 clips: too few for --batch-size 500" in capsys.readouterr().err
