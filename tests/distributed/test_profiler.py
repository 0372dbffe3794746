"""The profiler's trace holds the iterations asked for, of the ranks asked for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import jobs
import pytest
from pool import WorkerPool

pytestmark = pytest.mark.distributed


def test_trace_of_two_iterations_on_one_rank(pool: WorkerPool, make_config: Any) -> None:
    profile = {"tool": "torch", "first_iteration": 3, "last_iteration": 4, "ranks": [1]}
    config = make_config("run", training={"train_iters": 6, "eval_iters": 0}, profile=profile)
    pool.run(2, jobs.pretrain, config)
    (file,) = (Path(config["run"]) / "profile").iterdir()
    assert file.name == "rank_00001_iterations_3-4.json.gz"
    with gzip.open(file, "rt", encoding="utf-8") as trace:
        events = json.load(trace)["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert len([name for name in names if name.startswith("Optimizer.step")]) == 2
    assert "[memory]" in names
    assert any("Input Dims" in event.get("args", {}) for event in events)


@pytest.mark.parametrize(
    ("profile", "said"),
    [({"tool": "nsys"}, "there is none"), ({"tool": "torch", "last_iteration": 3}, "profile.last_iteration")],
)
def test_profile_that_cannot_be(profile: dict[str, Any], said: str, pool: WorkerPool, make_config: Any) -> None:
    assert said in pool.run(1, jobs.refused, make_config("run", profile=profile))[0]
