"""A run folder that not every node shares is reported before the first step."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import folder_jobs
import jobs
import pytest
from pool import WorkerPool

pytestmark = pytest.mark.distributed

BRIEF = {"train_iters": 3, "eval_iters": 0}


def test_nodes_without_a_shared_run_folder_are_reported(pool: WorkerPool, make_config: Any) -> None:
    config = make_config("run", training=BRIEF)
    errors = pool.run(2, folder_jobs.refused_in_own_folder, config)
    for rank, error in enumerate(errors):
        assert error.startswith(f"run = {config['run']}_{rank}\n")
        assert f"has written there does not exist on {platform.node()} (rank 1)\n" in error
        assert "file system that all nodes share" in error
    assert not (Path(f"{config['run']}_1") / "manifest.json").exists()


@pytest.mark.full
def test_nodes_that_disagree_whether_the_run_is_finished_are_reported(pool: WorkerPool, make_config: Any) -> None:
    config = make_config("run_0", training=BRIEF)
    for _ in range(2):
        assert pool.run(2, jobs.pretrain, config) == [3, 3]  # the second time, it is finished
    errors = pool.run(2, folder_jobs.refused_in_own_folder, make_config("run", training=BRIEF))
    node = platform.node()
    assert all(f"holds the finished run on {node} (rank 0), but not on {node} (rank 1)\n" in error for error in errors)
