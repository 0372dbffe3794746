"""A run that stops and goes on is the run that never stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jobs
import pytest
from pool import WorkerPool
from tiny import losses

from megatron_ipt.checkpointing.layout import iteration_folder, read_latest, saved_iterations

pytestmark = pytest.mark.distributed

LAYOUTS = {
    "one rank": (1, {}),
    "tp2": (2, {"tensor_model_parallel_size": 2}),
    "dp2 distributed optimizer": (2, {"use_distributed_optimizer": True, "overlap_grad_reduce": True}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_resumed_run_is_bitwise_the_undisturbed_one(layout: str, pool: WorkerPool, make_config: Any) -> None:
    world_size, parallel = LAYOUTS[layout]
    undisturbed = make_config("undisturbed", parallel=parallel)
    pool.run(world_size, jobs.pretrain, undisturbed)
    stopped = make_config("stopped", parallel=parallel, training={"exit_interval": 10})
    assert pool.run(world_size, jobs.pretrain, stopped)[0] == 10
    resumed = make_config("stopped", parallel=parallel)
    assert pool.run(world_size, jobs.pretrain, resumed)[0] == 20

    assert losses(resumed["run"]) == losses(undisturbed["run"])
    resumed_weights, weights = (
        pool.run(1, jobs.weight_hashes, str(iteration_folder(Path(config["run"]), 20)))[0]
        for config in (resumed, undisturbed)
    )
    assert len(weights) > 10
    assert resumed_weights == weights


@pytest.mark.parametrize(
    ("world_size", "parallel"),
    [
        (1, {}),
        (2, {"pipeline_model_parallel_size": 2}),
        (2, {"use_distributed_optimizer": True}),
    ],
    ids=["tp1", "pp2", "dp2 distributed optimizer"],
)
def test_checkpoint_of_tp2_goes_on_in_another_layout(
    world_size: int, parallel: dict[str, Any], pool: WorkerPool, make_config: Any
) -> None:
    tensor_parallel = {
        "tensor_model_parallel_size": 2,
        "use_distributed_optimizer": "use_distributed_optimizer" in parallel,
    }
    config = make_config("tp2", parallel=tensor_parallel, training={"exit_interval": 10})
    pool.run(2, jobs.pretrain, config)
    shutil.copytree(config["run"], Path(config["run"]).with_name("other"))
    pool.run(2, jobs.pretrain, make_config("tp2", parallel=tensor_parallel))
    pool.run(world_size, jobs.pretrain, make_config("other", parallel=parallel))
    other = losses(Path(config["run"]).with_name("other"))
    assert len(other) == 20
    assert other == pytest.approx(losses(config["run"]), rel=1e-5)


def test_damaged_checkpoint_falls_back_to_the_one_before(pool: WorkerPool, make_config: Any) -> None:
    undisturbed = make_config("undisturbed", checkpoint={"save_interval": 5})
    pool.run(1, jobs.pretrain, undisturbed)
    config = make_config("damaged", checkpoint={"save_interval": 5}, training={"exit_interval": 15})
    pool.run(1, jobs.pretrain, config)
    run = Path(config["run"])
    assert (saved_iterations(run), read_latest(run)) == ([15, 10, 5], 15)
    shard = max(iteration_folder(run, 15).glob("*.distcp"), key=lambda file: file.stat().st_size)
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)

    pool.run(1, jobs.pretrain, make_config("damaged", checkpoint={"save_interval": 5}))
    assert losses(run) == losses(undisturbed["run"])


def test_old_checkpoints_are_dropped(pool: WorkerPool, make_config: Any) -> None:
    config = make_config("run", checkpoint={"save_interval": 5, "keep_last": 2})
    pool.run(1, jobs.pretrain, config)
    assert saved_iterations(Path(config["run"])) == [20, 15]
