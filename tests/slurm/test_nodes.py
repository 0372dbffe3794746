"""A job with a rank that crashes on one of the nodes again and again, and makes progress all the same."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT, SITE, Pipeline

STEP = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, "megatron_ipt")
from attempts import record_exit, record_node, record_start
results, node = Path(sys.argv[1]), os.environ["SLURMD_NODENAME"]
os.environ["RANK"] = rank = os.environ["SLURM_PROCID"]
record_node()
if rank == "0":
    record_start(results, ["part-*"])
    time.sleep(1)
    (results / f"part-{len(list(results.iterdir()))}-{node}").touch()
crashes = node in sys.argv[2:]
code = 0 if not crashes else 1 if rank == "1" else 75
record_exit(code)
sys.exit(code)
"""


@pytest.mark.parametrize(("bad", "last"), [(["n1"], "COMPLETED"), (["n1", "n2"], "FAILED")])
def test_node_that_fails_twice_is_excluded_while_others_remain(pipeline: Pipeline, bad: list[str], last: str) -> None:
    cluster, folder = pipeline.cluster, pipeline.folder
    results, site = folder / "results", folder / "site.env"
    results.mkdir()
    site.write_text(SITE.format(python=sys.executable, folder=folder).replace("MAX_REQUEUES=10", "MAX_REQUEUES=4"))
    (folder / "step.py").write_text(STEP)
    script = folder / "job.sh"
    step = ["run_stage", sys.executable, str(folder / "step.py"), str(results), *bad]
    script.write_text(f"#!/bin/bash\nexport MEGATRON_IPT_SITE={site}\nsource slurm/common.sh\n{' '.join(step)}\n")
    log = folder / "job.out"
    options = ["--requeue", "--open-mode=append", "--ntasks=2", "--nodes=1", f"--output={log}"]
    job = cluster.run("sbatch", "--parsable", "--partition=main", *options, str(script), cwd=ROOT).stdout.strip()
    cluster.wait_for_state(job, last, timeout_seconds=150)

    nodes = [part.name.rpartition("-")[2] for part in sorted(results.iterdir())]
    said = log.read_text()
    assert said.count("excluded, since they failed repeatedly: n1") == 1, said
    if last == "COMPLETED":
        assert nodes == ["n1", "n1", "n2"]
    else:
        assert nodes == ["n1", "n1", "n2", "n2", "n2"]
        assert "n2 failed repeatedly, but the partition has only 0 other nodes: not excluded" in said
    assert cluster.job(job)["ExcNodeList"] == "n1"
    assert list((folder / "logs" / "attempts").iterdir()) == []
