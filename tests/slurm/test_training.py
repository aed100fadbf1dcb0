"""Training on two nodes of a real cluster: warnings, preemption, crashes, limits; the loss curve never shows them."""

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.slurm import CHECKPOINT, LOG, STEPS, VALIDATE, training, two_nodes, until

pytestmark = pytest.mark.slurm


def tensorboard_steps(folder: Path, tag: str) -> list[int]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [event.step for event in events.Scalars(tag)]


def assert_nothing_shows(cluster, name: str, undisturbed) -> None:
    """The figures are those of the undisturbed run, TensorBoard has every step once, and the model is there."""
    assert cluster.metrics(name) == undisturbed
    folder = cluster.work / "runs" / name
    assert tensorboard_steps(folder, "train/loss") == list(range(LOG, STEPS + 1, LOG))
    assert tensorboard_steps(folder, "valid/loss") == list(range(VALIDATE, STEPS + 1, VALIDATE))
    assert (folder / "model" / "config.json").is_file()


def warn(cluster, job: str, random: random.Random) -> None:
    """SIGUSR1 to all processes of one rank, and to the other's 0.3 s later."""
    ranks = cluster.ranks(job)
    for rank in random.sample(sorted(ranks), len(ranks)):
        subprocess.run(["kill", "-USR1", *map(str, ranks[rank])], stderr=subprocess.DEVNULL)
        time.sleep(0.3)


def wait_for_a_step(cluster, job: str, name: str) -> None:
    begin = cluster.step(name)
    until(lambda: cluster.step(name) > begin, 240, lambda: cluster.explain(job))


def test_two_nodes(cluster, undisturbed):
    name = "undisturbed"
    assert_nothing_shows(cluster, name, undisturbed)
    first = (cluster.work / "runs" / name / "run.log").read_text()
    assert "2 node(s), 2 rank(s)" in first
    assert "8 per step (global batch)" in first
    assert "restart 0, on node[1-2]" in first


def test_ten_warnings_with_a_straggler(cluster, latents, undisturbed):
    """One in the start-up, before any handler exists, then nine at random moments of one training."""
    moments = random.Random(0)
    job = cluster.submit(*two_nodes(), *training(latents, "warned"))
    for warning in range(10):
        until(lambda: len(cluster.ranks(job)) == 2, 120)
        if warning:
            wait_for_a_step(cluster, job, "warned")
            time.sleep(0.3 * moments.random())
        warn(cluster, job, moments)
        cluster.wait(job, "PENDING")
        assert cluster.facts(job)["Restarts"] == str(warning + 1)
    facts = cluster.wait(job, "COMPLETED")
    assert facts["ExitCode"] == "0:0"
    assert cluster.log(job).count("requeue (the step ended with exit code 138)") == 10
    assert "restart 10, on" in (cluster.work / "runs" / "warned" / "run.log").read_text()
    assert_nothing_shows(cluster, "warned", undisturbed)


def test_preempted_by_a_higher_priority(cluster, latents, undisturbed):
    """This cluster preempts with SIGTERM and a time of grace."""
    job = cluster.submit(*two_nodes(), *training(latents, "preempted"))
    wait_for_a_step(cluster, job, "preempted")
    important = cluster.submit("--partition=high", "--nodes=2", "--exclusive", "--output=high.log", "--wrap", "sleep 1")
    cluster.wait(important, "COMPLETED")
    facts = cluster.wait(job, "COMPLETED")
    assert facts["Restarts"] == "1"
    assert "saved; the same command continues" in cluster.log(job)
    assert_nothing_shows(cluster, "preempted", undisturbed)


def test_a_node_crashes(cluster, latents, undisturbed):
    """Its daemon and its processes are gone at once: SLURM requeues, the last checkpoint continues, on another node."""
    one_node = ["--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=2"]
    job = cluster.submit(*one_node, *training(latents, "crashed"))
    until(lambda: cluster.step("crashed") > CHECKPOINT, 120)
    node = cluster.facts(job)["NodeList"]
    cluster.manage("crash-node", node)
    until(lambda: cluster.facts(job)["Restarts"] == "1", 120)
    facts = cluster.wait(job, "COMPLETED")
    cluster.manage("start-node", node)
    assert facts["NodeList"] != node
    (resumed,) = re.findall(r"resuming runs/crashed at step (\d+)", cluster.log(job))
    assert int(resumed) % CHECKPOINT == 0
    assert_nothing_shows(cluster, "crashed", undisturbed)


def test_a_training_that_stands_still_is_requeued(cluster, latents, undisturbed):
    """One rank is frozen: the other waits for it, shows where it stands, and ends the step; a new one finishes."""
    job = cluster.submit(*two_nodes(), *training(latents, "frozen"))
    wait_for_a_step(cluster, job, "frozen")
    for process in cluster.ranks(job)[1]:
        os.kill(process, signal.SIGSTOP)
    facts = cluster.wait(job, "COMPLETED", timeout=300)
    assert facts["Restarts"] == "1"
    assert "requeue (the step ended with exit code 142)" in cluster.log(job)
    assert re.search(r'training/fit.py", line \d+ in train', cluster.log(job))  # where rank zero stood
    assert_nothing_shows(cluster, "frozen", undisturbed)


def test_the_time_limit_requeues_and_scancel_ends(cluster, latents):
    """The warning of the time limit comes from SLURM itself; a cancelled training saves and stays cancelled."""
    arguments = [*training(latents, "limited"), "trainer.max_steps=100000"]
    job = cluster.submit("--time=30", *two_nodes(), *arguments)
    wait_for_a_step(cluster, job, "limited")
    minutes = int(cluster.facts(job)["RunTime"].split(":")[1])
    cluster.run("scontrol", "update", f"jobid={job}", f"TimeLimit={minutes + 2}")  # less than USR1@180 from now
    until(lambda: cluster.facts(job)["Restarts"] == "1", 120)
    cluster.run("scontrol", "update", f"jobid={job}", "TimeLimit=30")
    wait_for_a_step(cluster, job, "limited")
    cluster.run("scancel", job)
    cluster.wait(job, "CANCELLED")
    assert cluster.log(job).count("saved; the same command continues") == 2
    time.sleep(1)
    assert cluster.facts(job)["JobState"] == "CANCELLED"


def test_fsdp2_warned_on_two_nodes(cluster, latents, undisturbed):
    """Sharded, stopped and continued: the losses of the undisturbed DDP training, up to the order of float32 sums."""
    job = cluster.submit(*two_nodes(), *training(latents, "sharded", "fsdp2"))
    wait_for_a_step(cluster, job, "sharded")
    warn(cluster, job, random.Random(0))
    cluster.wait(job, "PENDING")
    assert cluster.wait(job, "COMPLETED")["Restarts"] == "1"
    rows = cluster.metrics("sharded")
    for key in ("train/loss", "valid/loss"):
        assert [row["step"] for row in rows if row[key]] == [row["step"] for row in undisturbed if row[key]]
        expected = [float(row[key]) for row in undisturbed if row[key]]
        assert [float(row[key]) for row in rows if row[key]] == pytest.approx(expected, rel=1e-3)
