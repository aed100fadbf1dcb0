"""slurm/chain.sh: four jobs, each after the one before; a failure stops what comes behind it."""

import json
import sys
from pathlib import Path

import pytest

from data_prep.corpus import builtin
from tests.helpers.slurm import ROOT, Cluster, until

JOBS = ("precompute", "pretrain", "text", "evaluate")


@pytest.fixture(scope="session")
def small_manifest(cluster) -> Path:
    """Sixty clips of the built-in corpus, which is fetched once and kept."""
    source = ROOT / "data" / "builtin"
    builtin.main(["--out", str(source)])
    records = [json.loads(line) for line in (source / "manifest.jsonl").read_text().splitlines()]
    chosen = []
    for split, count in (("train", 44), ("valid", 16)):
        short = [record for record in records if record.get("split", "train") == split and record.get("caption")]
        chosen += short[:: max(1, len(short) // count)][:count]
    for record in chosen:
        record["path"] = str(source / record["path"])
    manifest = cluster.work / "small.jsonl"
    manifest.write_text("".join(json.dumps(record) + "\n" for record in chosen))
    return manifest


def submit_chain(cluster: Cluster, *arguments: object) -> dict[str, str]:
    """Job ids by name."""
    cluster.set_options(
        PRECOMPUTE_OPTIONS="--array=0-1 --cpus-per-task=1",
        TRAIN_OPTIONS="--nodes=2 --ntasks-per-node=1 --cpus-per-task=2",
        EVALUATE_OPTIONS="--cpus-per-task=2",
    )
    lines = cluster.run("bash", "slurm/chain.sh", *arguments).splitlines()
    return dict(line.split(": job ") for line in lines)


@pytest.mark.slurm
def test_the_whole_way(cluster, small_manifest):
    """Real recordings to metrics, both trainings on two nodes."""
    jobs = submit_chain(
        cluster,
        *(
            f"manifest={small_manifest}",
            "name=chain",
            "precompute.clip_seconds=1.28",
            "precompute.samples_per_shard=16",
        ),
        *("model=tiny", "trainer=ddp", "trainer.accelerator=cpu", "trainer.max_steps=40", "data.batch_size=8"),
        *("trainer.validate_every_steps=20", "evaluate.iterations=4", "evaluate.diffusion-steps=5"),
    )
    assert tuple(jobs) == JOBS
    for name in JOBS:
        assert cluster.wait(jobs[name], "COMPLETED", timeout=300)["ExitCode"] == "0:0", name
    metrics = json.loads((cluster.work / "runs" / "chain" / "metrics.json").read_text())
    assert metrics["num_samples"] == 16
    assert cluster.step("chain/pretrain") == cluster.step("chain/text") == 40


@pytest.mark.slurm
def test_a_warned_task_of_an_array_is_requeued(cluster, small_manifest):
    """impact precompute has no handler: the warning of the time limit ends it, and its task alone goes back."""
    arguments = [f"manifest={small_manifest}", "out=warned-latents", "clip_seconds=1.28", "samples_per_shard=4"]
    job = cluster.submit("--array=0-1", "slurm/precompute.sh", *arguments)
    until(lambda: cluster.ranks(cluster.facts(f"{job}_0")["JobId"], "precompute"), 60)
    cluster.run("scancel", "--signal=USR1", f"{job}_0")
    until(lambda: cluster.facts(f"{job}_0")["Restarts"] == "1", 60)
    for task in (0, 1):
        facts = cluster.wait(f"{job}_{task}", "COMPLETED")
        assert (facts["ExitCode"], facts["Restarts"]) == ("0:0", str(1 - task))
    verified = cluster.run(Path(sys.executable).with_name("impact"), "verify", "warned-latents")
    assert "15 shards" in verified  # of four records each
    assert "all sound" in verified


@pytest.mark.slurm
def test_a_job_that_fails_stops_the_chain(cluster, sounds):
    jobs = submit_chain(
        cluster,
        *(f"manifest={sounds}", "name=bad", "precompute.clip_seconds=1.28", "trainer.accelerator=cpu"),
        "pretrain.trainer.max_steps=-1",
    )
    assert cluster.wait(jobs["precompute"], "COMPLETED")
    assert cluster.wait(jobs["pretrain"], "FAILED")["ExitCode"] == "2:0"
    assert "trainer.max_steps=-1: choose 0 or more" in cluster.log(jobs["pretrain"])
    for name in ("text", "evaluate"):
        cluster.wait(jobs[name], "CANCELLED")
        assert not cluster.log(jobs[name])  # it never began
