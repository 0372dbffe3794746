"""A finished run leaves nothing behind in its process."""

from __future__ import annotations

from typing import Any

import jobs
import pytest
from pool import WorkerPool

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("is_distributed", [False, True])
def test_the_process_groups_of_a_finished_run_are_freed(
    is_distributed: bool, pool: WorkerPool, make_config: Any
) -> None:
    """Each keeps threads of gloo, which spin once the other ranks have left."""
    pool.run(2, jobs.pretrain, make_config("run", parallel={"use_distributed_optimizer": is_distributed}))
    assert pool.run(2, jobs.communication_threads) == [0, 0]
