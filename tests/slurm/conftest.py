"""A real SLURM cluster of two nodes on this machine, for the time of a test session."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.slurm import Cluster, training, two_nodes

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "unshare")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        pytest.fail(f"the SLURM tests need root and {', '.join(missing) or 'nothing else'}: see `make test-slurm`")
    state = Path(tempfile.mkdtemp(prefix="slurm-"))
    state.chmod(0o755)  # munge refuses to work below a folder that only its owner can enter, as pytest's are
    cluster = Cluster(tmp_path_factory.mktemp("slurm"), state)
    try:
        cluster.manage("start")
        yield cluster
    finally:
        cluster.manage("stop")
        shutil.rmtree(state)


@pytest.fixture(scope="session")
def undisturbed(cluster, latents) -> list[dict[str, str]]:
    """The figures of a two-node training that nothing has happened to."""
    job = cluster.submit(*two_nodes(), *training(latents, "undisturbed"))
    cluster.wait(job, "COMPLETED")
    return cluster.metrics("undisturbed")
