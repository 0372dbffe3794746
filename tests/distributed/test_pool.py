"""The worker pool reports the failure of every rank, soon, and works on afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pool_jobs
import pytest
from pool import WorkerPool

PROMPTLY_SECONDS = 30.0


@pytest.fixture
def own_pool() -> Iterator[WorkerPool]:
    pool = WorkerPool()
    yield pool
    pool.close()


def test_failures_of_all_ranks_are_reported(own_pool: WorkerPool) -> None:
    assert own_pool.run(2, pool_jobs.adding, 1, 2) == [3, 3]
    started = time.monotonic()
    with pytest.raises(AssertionError, match=r"rank 1 of 2:\n(?s:.*)ValueError: the cause"):
        own_pool.run(2, pool_jobs.raising, 1)
    with pytest.raises(AssertionError) as failure:
        own_pool.run(2, pool_jobs.exiting, 1)
    assert time.monotonic() - started < PROMPTLY_SECONDS
    assert "rank 1 of 2:\nthe process ended with exit code 7" in str(failure.value)
    assert "ConnectionError: the consequence" in str(failure.value)
    assert own_pool.run(2, pool_jobs.adding, 3, 4) == [7, 7]


def test_a_worker_that_ended_is_reported_and_replaced(own_pool: WorkerPool) -> None:
    with pytest.raises(AssertionError, match="rank 0 of 2:\nthe process ended with exit code 7"):
        own_pool.run(2, pool_jobs.exiting_alone)
    own_pool.run(1, pool_jobs.exiting_later)
    for process, _ in own_pool._workers:
        process.join(PROMPTLY_SECONDS)
    with pytest.raises(AssertionError, match="rank 0 of 1:\nthe process ended with exit code 7"):
        own_pool.run(1, pool_jobs.adding, 1, 2)
    assert own_pool.run(1, pool_jobs.adding, 3, 4) == [7]
