"""One cluster for all tests, and the quick start's configurations made small."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, missing_reason
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart_cpu"
SITE = """\
export SBATCH_PARTITION=main
SYNTHESIZE=(--cpus-per-task=2 --time=20)
PREPROCESS=(--cpus-per-task=1 --time=20)
MIX=(--cpus-per-task=1 --time=20)
PRETRAIN=(--nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --time=20)
CONVERT=(--cpus-per-task=1 --time=20)
EVALUATE=(--cpus-per-task=2 --time=20)
SYNTHESIZE_EXECUTOR=()
PYTHON={python}
MODULES=()
CONTAINER_IMAGE=
CONTAINER_MOUNTS=
BIND_NUMA=yes
SCRATCH=
LOGS={folder}/logs
MAX_REQUEUES=10
"""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := missing_reason():
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@dataclass(frozen=True)
class Pipeline:
    """A folder of configurations and a site of its own, submitted from the login host."""

    cluster: Cluster
    folder: Path

    def write(self, stage: str, config: dict[str, Any]) -> None:
        """Write the YAML of a stage: the quick start's with what `config` changes."""
        example = QUICKSTART / f"{stage.partition('_')[0]}.yaml"
        base = OmegaConf.load(example) if example.exists() else OmegaConf.create()
        (self.folder / "configs").mkdir(exist_ok=True)
        OmegaConf.save(OmegaConf.merge(base, config), self.folder / "configs" / f"{stage}.yaml")

    def submit(self, *options: str, site: str = "") -> dict[str, str]:
        """Submit what the folder has; the job of each stage."""
        file = self.folder / "site.env"
        file.write_text(SITE.format(python=sys.executable, folder=self.folder) + site)
        command = ["slurm/submit_pipeline.sh", "--site", str(file), *options, str(self.folder / "configs")]
        said = self.cluster.run(*command, cwd=ROOT).stdout
        return dict(line.split()[:2] for line in said.splitlines())

    def said(self) -> str:
        """What all jobs wrote."""
        return "\n".join(file.read_text() for file in sorted((self.folder / "logs").glob("*.out")))

    def wait_until_done(self, jobs: dict[str, str], timeout_seconds: float) -> None:
        """Wait until the queue is empty; every job must have ended well."""
        self.cluster.wait_for(lambda: not self.cluster.run("squeue", "--noheader").stdout.strip(), timeout_seconds)
        states = {stage: self.cluster.job(number)["JobState"] for stage, number in jobs.items()}
        assert set(states.values()) == {"COMPLETED"}, f"{states}\n{self.said()}"


@pytest.fixture
def pipeline(cluster: Cluster, tmp_path: Path) -> Pipeline:
    return Pipeline(cluster, tmp_path)
