"""slurm/submit_pipeline.sh where the package is in a container, on a host with nothing but bash and python3."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = """\
SYNTHESIZE=(--time=5) PREPROCESS=(--time=5) MIX=(--time=7) PRETRAIN=(--time=5) CONVERT=(--time=5) EVALUATE=(--time=5)
SYNTHESIZE_EXECUTOR=({executor})
PYTHON=/opt/image/bin/python
MODULES=() CONTAINER_IMAGE=trainer.sqsh CONTAINER_MOUNTS= SCRATCH= LOGS={folder}/logs MAX_REQUEUES=1
"""
SBATCH = """#!/bin/bash
echo "$*" >>"$SUBMITTED"
wc -l <"$SUBMITTED"
"""


def submit(
    folder: Path, stages: list[str], *, executor: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Submit a folder with these configurations to a stub of sbatch: what it says, and the commands of its jobs."""
    (folder / "configs").mkdir()
    for stage in stages:
        (folder / "configs" / f"{stage}.yaml").write_text("{}")
    (folder / "bin").mkdir()
    (folder / "bin" / "sbatch").write_text(SBATCH)
    (folder / "bin" / "sbatch").chmod(0o755)
    (folder / "site.env").write_text(SITE.format(folder=folder, executor=executor))
    submitted = folder / "submitted"
    done = subprocess.run(
        ["slurm/submit_pipeline.sh", "--site", str(folder / "site.env"), str(folder / "configs")],
        cwd=ROOT,
        env={"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "SUBMITTED": str(submitted), "HOME": os.environ["HOME"]},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, submitted.read_text().splitlines() if submitted.exists() else []


@pytest.mark.parametrize("first", [[], ["convert_base"]])
def test_configurations_are_read_by_a_job_that_all_others_wait_for(first: list[str], tmp_path: Path) -> None:
    done, jobs = submit(tmp_path, [*first, "mix", "pretrain"])
    assert done.returncode == 0, done.stderr
    names = ["check", *first, "mix", "pretrain"]
    assert [line.split()[0] for line in done.stdout.splitlines()] == names
    scripts = [next(word for word in job.split() if word.endswith(".sbatch")) for job in jobs]
    assert scripts == [f"slurm/{name.removesuffix('_base')}.sbatch" for name in names]
    assert "--time=7" in jobs[0] and jobs[0].endswith(f"{tmp_path}/configs/mix.yaml {tmp_path}/configs/pretrain.yaml")
    assert "afterok" not in jobs[0]
    assert all(f"--dependency=singleton,afterok:{after}" in job for job, after in zip(jobs[1:-1], "11", strict=False))
    assert f"afterok:{'3:2' if first else '2'}" in jobs[-1]


def test_job_arrays_of_the_host_are_refused(tmp_path: Path) -> None:
    done, jobs = submit(tmp_path, ["synthesize"], executor="executor.kind=slurm")
    assert (done.returncode, jobs) == (2, [])
    assert "the package is only in CONTAINER_IMAGE" in done.stderr and "SYNTHESIZE_EXECUTOR=()" in done.stderr
