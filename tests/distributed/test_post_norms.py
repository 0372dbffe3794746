"""The norm of all heads of a projection, of which each tensor rank holds some."""

from __future__ import annotations

import norm_jobs
import pytest
from pool import WorkerPool

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.1)])
def test_shares_are_those_of_the_whole(dtype: str, tolerance: float, pool: WorkerPool) -> None:
    for differences in pool.run(2, norm_jobs.compare_projection_norm, dtype):
        assert all(difference < tolerance for difference in differences.values()), differences
