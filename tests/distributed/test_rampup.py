"""A batch that grows: the same steps whenever the run is stopped, and on however many ranks it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jobs
import pytest
from pool import WorkerPool
from tiny import losses

from megatron_ipt.observability.metrics import read_metrics

pytestmark = pytest.mark.distributed

RAMP = {"train_iters": 12, "global_batch_size": 16, "rampup_batch_size": [4, 4, 60], "eval_iters": 0}
BATCHES = [4] * 5 + [8] * 3 + [12] * 2 + [16] * 2


@pytest.mark.full
def test_reading_ahead_changes_nothing(pool: WorkerPool, make_config: Any) -> None:
    """Over interleaved pipeline stages, growing batches and a restart."""
    parallel = {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2}
    expected = make_config("expected", training=RAMP, parallel=parallel)
    pool.run(2, jobs.pretrain, expected)
    for last in (7, 12):
        config = make_config("ahead", training={**RAMP, "exit_interval": last}, parallel=parallel)
        pool.run(2, jobs.pretrain_reading_ahead, config)
    assert losses(config["run"]) == losses(expected["run"])
    assert len(losses(config["run"])) == 12


def test_growing_batch_goes_on_where_it_was(pool: WorkerPool, make_config: Any) -> None:
    undisturbed = make_config("undisturbed", training=RAMP)
    [read] = pool.run(1, jobs.traced_pretrain, undisturbed)
    assert read == list(range(sum(BATCHES)))
    rows = [row for row in read_metrics(Path(undisturbed["run"]) / "metrics.jsonl") if "lm_loss" in row]
    assert [row["consumed_train_samples"] for row in rows] == [sum(BATCHES[: i + 1]) for i in range(12)]

    ahead = make_config("ahead", training=RAMP)
    assert pool.run(1, jobs.pretrain_reading_ahead, ahead) == [11]  # after every step but the last
    assert losses(ahead["run"]) == losses(undisturbed["run"])

    for last in (7, 12):
        pool.run(1, jobs.pretrain, make_config("stopped", training={**RAMP, "exit_interval": last}))
    assert losses(make_config("stopped")["run"]) == losses(undisturbed["run"])

    read = []
    for world_size, last in ((2, 3), (1, 9), (2, 12)):
        config = make_config(
            "moved", training={**RAMP, "exit_interval": last}, parallel={"use_distributed_optimizer": True}
        )
        by_rank = pool.run(world_size, jobs.traced_pretrain, config)
        micro_batches = [list(zip(*[iter(samples)] * 2, strict=True)) for samples in by_rank]
        read += [index for together in zip(*micro_batches, strict=True) for pair in together for index in pair]
    assert read == list(range(sum(BATCHES)))
    assert losses(config["run"]) == pytest.approx(losses(undisturbed["run"]), rel=1e-5)
