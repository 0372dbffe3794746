"""A finished run leaves nothing behind in its process."""

from __future__ import annotations

from typing import Any

import jobs
import pytest
from pool import WorkerPool

pytestmark = pytest.mark.distributed

RUNS: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {},
    "distributed optimizer": {"parallel": {"use_distributed_optimizer": True}},
    "yarn": {"model": {"rope_type": "yarn", "rope_factor": 2.0}},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_process_groups_of_a_finished_run_are_freed(name: str, pool: WorkerPool, make_config: Any) -> None:
    """Each keeps threads of gloo, which spin once the other ranks have left."""
    pool.run(2, jobs.pretrain, make_config("run", training={"train_iters": 3}, **RUNS[name]))
    assert pool.run(2, jobs.communication_threads) == [0, 0]


def test_no_groups_of_gloo_are_formed_beside_those_in_use(pool: WorkerPool) -> None:
    """megatron-core forms more of them, for ways to save the optimizer that are not used."""
    assert pool.run(2, jobs.groups_of_gloo) == [[], []]
