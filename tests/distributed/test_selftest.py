"""The self-test passes where all is well, and its verdicts say what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import selftest_jobs
from pool import WorkerPool

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).parents[2]
EXPECTED = {
    "packages": "PASS",
    "Transformer Engine": "SKIPPED",
    "bandwidth within nodes": "SKIPPED",
    "bandwidth between nodes": "SKIPPED",
    "shared folder": "PASS",
    "save": "PASS",
    "loss": "PASS",
    "resume": "PASS",
    "FP8": "SKIPPED",
}
"""On one rank without a GPU."""


def statuses(verdicts: list[dict[str, Any]]) -> dict[str, str]:
    return {verdict["check"]: verdict["status"] for verdict in verdicts}


def test_it_passes_on_one_rank(pool: WorkerPool, tmp_path: Path) -> None:
    ((code, printed),) = pool.run(1, selftest_jobs.selftest, f"output={tmp_path}", "--json")
    outcome = json.loads(printed)
    assert (code, outcome["passed"], statuses(outcome["verdicts"])) == (0, True, EXPECTED)
    details = {verdict["check"]: verdict["detail"] for verdict in outcome["verdicts"]}
    assert "largest difference 0.00%" in details["loss"]
    assert details["FP8"] == "no GPU"
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_fails_is_named(pool: WorkerPool, tmp_path: Path) -> None:
    output = tmp_path / "file"
    output.touch()
    ((code, printed),) = pool.run(1, selftest_jobs.selftest, f"output={output}")
    lines = printed.splitlines()
    assert code == 1
    assert [line.split()[0] for line in lines if "shared folder  " in line] == ["FAIL"]
    assert [line for line in lines if line.startswith("SKIPPED  resume ") and "there is no shared folder" in line]


@pytest.mark.full
def test_it_measures_the_bandwidth_of_ranks_that_torchrun_started(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command = [*torchrun, "tools/selftest.py", f"output={tmp_path}", "message_mib=1", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])  # gloo prints to standard output too
    assert statuses(outcome["verdicts"]) == {**EXPECTED, "bandwidth within nodes": "PASS"}
    slow = subprocess.run(
        [*command, "min_node_gbytes=1e6"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=500
    )
    assert slow.returncode == 1
    failed = [
        verdict for verdict in json.loads(slow.stdout.splitlines()[-1])["verdicts"] if verdict["status"] == "FAIL"
    ]
    assert [verdict["check"] for verdict in failed] == ["bandwidth within nodes"]
    assert "GB/s are required" in failed[0]["detail"]
